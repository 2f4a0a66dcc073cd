//! How far a follower of the log has come, moved by compare-and-set: two runners can't both move it.

use sqlx::PgConnection;

/// A read model's checkpoint.
///
/// # Errors
/// Where the database is out of reach, or there is no such read model.
pub async fn of_read_model(
    connection: &mut PgConnection,
    name: &str,
    version: i32,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select position from read_models where name = $1 and version = $2")
        .bind(name)
        .bind(version)
        .fetch_one(connection)
        .await
}

/// Moves a read model's checkpoint; false where somebody else has moved it.
///
/// # Errors
/// Where the database is out of reach.
pub async fn move_read_model(
    connection: &mut PgConnection,
    name: &str,
    version: i32,
    from: i64,
    to: i64,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        "update read_models set position = $4 where name = $1 and version = $2 and position = $3",
    )
    .bind(name)
    .bind(version)
    .bind(from)
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
