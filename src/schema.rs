//! The database's schema: brought up to date by `migrate`, checked before anything is served.

use sqlx::PgPool;
use sqlx::migrate::{MigrateError, Migrator};

use crate::app::StartError;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Brings the schema up to date.
///
/// # Errors
/// Where a migration fails, or the schema is newer than this binary.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    MIGRATIONS.run(pool).await
}

/// Is the schema exactly this binary's?
///
/// # Errors
/// [`StartError::SchemaOutOfDate`] where a migration is missing, [`StartError::Schema`] where one is unknown or changed.
pub(crate) async fn check(pool: &PgPool) -> Result<(), StartError> {
    let is_there: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(pool)
        .await?;
    if !is_there {
        return Err(StartError::SchemaOutOfDate);
    }
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select version, checksum from _sqlx_migrations where success order by version")
            .fetch_all(pool)
            .await?;
    for (version, checksum) in &applied {
        match MIGRATIONS.iter().find(|migration| migration.version == *version) {
            None => return Err(StartError::Schema(format!("migration {version} is unknown"))),
            Some(migration) if *migration.checksum != **checksum => {
                return Err(StartError::Schema(format!("migration {version} is another one")));
            }
            Some(_) => {}
        }
    }
    if applied.len() < MIGRATIONS.iter().count() {
        Err(StartError::SchemaOutOfDate)
    } else {
        Ok(())
    }
}
