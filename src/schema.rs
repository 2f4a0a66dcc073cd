//! The database's schema: brought up to date by `migrate`, checked before anything is served.

use sqlx::PgPool;
use sqlx::migrate::{MigrateError, Migrator};

use thiserror::Error;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Brings the schema up to date.
///
/// # Errors
/// Where a migration fails, or the schema is newer than this binary.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    MIGRATIONS.run(pool).await
}

/// Why nothing can be served on a schema.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// The database.
    #[error("the database is out of reach")]
    Database(#[from] sqlx::Error),
    /// A migration is missing.
    #[error("the database's schema is out of date: run `featbit-tokens migrate`")]
    OutOfDate,
    /// A migration is unknown: the schema is newer than this binary, or somebody else's.
    #[error("the database's schema is newer than this version, or not its own: migration {0} is unknown")]
    Unknown(i64),
    /// A migration that was applied is not the one this binary knows by its number.
    #[error("the database's schema is not this version's: migration {0} was another one")]
    Changed(i64),
}

/// Is the schema exactly this binary's?
///
/// # Errors
/// [`SchemaError`]
pub async fn check(pool: &PgPool) -> Result<(), SchemaError> {
    let is_there: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(pool)
        .await?;
    if !is_there {
        return Err(SchemaError::OutOfDate);
    }
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select version, checksum from _sqlx_migrations where success order by version")
            .fetch_all(pool)
            .await?;
    for (version, checksum) in &applied {
        match MIGRATIONS.iter().find(|migration| migration.version == *version) {
            None => return Err(SchemaError::Unknown(*version)),
            Some(migration) if *migration.checksum != **checksum => {
                return Err(SchemaError::Changed(*version));
            }
            Some(_) => {}
        }
    }
    if applied.len() < MIGRATIONS.iter().count() {
        Err(SchemaError::OutOfDate)
    } else {
        Ok(())
    }
}
