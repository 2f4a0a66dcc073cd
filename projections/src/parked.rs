//! The messages that were set aside.

use sqlx::PgConnection;

/// How many there are.
///
/// # Errors
/// Where the database is out of reach.
pub async fn count(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from parked_messages")
        .fetch_one(connection)
        .await
}
