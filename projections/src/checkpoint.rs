//! How far a follower of the log has come, moved by compare-and-set: two runners can't both move it.

use sqlx::{FromRow, PgConnection};

/// Which tables of a read model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Those of the live version, whichever that is at the moment.
    Live,
    /// Those of a version that is being filled beside it, for as long as it is not the live one.
    Beside(i32),
}

impl Tables {
    fn version(self) -> Option<i32> {
        match self {
            Self::Live => None,
            Self::Beside(version) => Some(version),
        }
    }
}

/// How far a version of a read model has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct Checkpoint {
    /// Which version.
    pub version: i32,
    /// The last position it holds.
    pub position: i64,
}

/// A read model's checkpoint.
///
/// # Errors
/// Where the database is out of reach, or there are no such tables (any more).
pub async fn of_read_model(
    connection: &mut PgConnection,
    name: &str,
    tables: Tables,
) -> Result<Checkpoint, sqlx::Error> {
    sqlx::query_as(
        "select version, position from read_models
         where name = $1 and is_live = ($2::int is null) and version = coalesce($2, version)",
    )
    .bind(name)
    .bind(tables.version())
    .fetch_one(connection)
    .await
}

/// Moves a read model's checkpoint; false where somebody else has moved it, or where another version became the live one
/// in the meantime.
///
/// # Errors
/// Where the database is out of reach.
pub async fn move_read_model(
    connection: &mut PgConnection,
    name: &str,
    tables: Tables,
    from: Checkpoint,
    to: i64,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        "update read_models set position = $5
         where name = $1 and version = $2 and is_live = $3 and position = $4",
    )
    .bind(name)
    .bind(from.version)
    .bind(tables == Tables::Live)
    .bind(from.position)
    .bind(to)
    .execute(connection)
    .await?;
    Ok(moved.rows_affected() == 1)
}

/// The checkpoint of somebody who answers events with commands; 0 at the start.
///
/// # Errors
/// Where the database is out of reach.
pub async fn of_follower(connection: &mut PgConnection, name: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select coalesce((select position from checkpoints where name = $1), 0)")
        .bind(name)
        .fetch_one(connection)
        .await
}

/// Moves a follower's checkpoint; false where somebody else has moved it.
///
/// # Errors
/// Where the database is out of reach.
pub async fn move_follower(
    connection: &mut PgConnection,
    name: &str,
    from: i64,
    to: i64,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        "insert into checkpoints (name, position) values ($1, $3)
         on conflict (name) do update set position = excluded.position where checkpoints.position = $2",
    )
    .bind(name)
    .bind(from)
    .bind(to)
    .execute(connection)
    .await?;
    Ok(moved.rows_affected() == 1)
}
