//! Reads the log for its chain, row by row and as it is stored: a page holds no more than one row in memory.

use std::ops::ControlFlow;

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use thiserror::Error;
use uuid::Uuid;

use super::chain::Link;

/// Positions in one statement, at most: it must get through in the time that a statement may take.
const PAGE: i64 = 2_000;
/// Bytes of payload and metadata in one statement, but for a single position that has more.
const MAX_PAGE_BYTES: i64 = 4 * 1024 * 1024;

/// Why the log can't be read.
#[derive(Debug, Error)]
pub enum ReadError<E> {
    /// The database.
    #[error("the log is out of reach")]
    Database(#[from] sqlx::Error),
    /// A value that no append writes: what it is can't be told, and so not what it hashes to.
    #[error("the event at position {0} can't be read")]
    Unreadable(i64),
    /// The reader.
    #[error(transparent)]
    Taken(E),
}

/// Hands every row after a position, up to another, to `take`, in order, with the organization it is filed under. Each
/// statement covers positions, not rows: a second row of one position is handed over too.
///
/// # Errors
/// [`ReadError`], and whatever `take` says.
pub async fn read<E>(
    pool: &PgPool,
    after: i64,
    until: i64,
    mut take: impl FnMut(&Link<'_>, Uuid) -> Result<ControlFlow<()>, E>,
) -> Result<(), ReadError<E>> {
    let mut connection = pool.acquire().await?;
    let mut from = after;
    while from < until {
        let to = from.saturating_add(PAGE).min(until);
        let mut rows = sqlx::query(
            "select position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                    case when recorded_at between '0001-01-01' and '9999-12-31' then recorded_at end, hash, organization_id
             from (
                 select *, coalesce(sum(pg_column_size(payload) + pg_column_size(metadata)) over (
                     order by position range between unbounded preceding and 1::bigint preceding), 0) as bytes_before
                 from events where position > $1 and position <= $2
             ) page
             where bytes_before < $3
             order by position",
        )
        .bind(from)
        .bind(to)
        .bind(MAX_PAGE_BYTES)
        .fetch(&mut *connection);
        let mut last = None;
        while let Some(row) = rows.try_next().await? {
            let position = row.try_get(0)?;
            let unreadable = |_| ReadError::Unreadable(position);
            let organization_id = row.try_get(10).map_err(unreadable)?;
            let link = link(&row, position).map_err(unreadable)?;
            if take(&link, organization_id).map_err(ReadError::Taken)?.is_break() {
                return Ok(());
            }
            last = Some(position);
        }
        drop(rows);
        // Where there was none, positions up to there are missing, which whoever takes the next one sees.
        from = last.unwrap_or(to);
    }
    Ok(())
}

fn link(row: &PgRow, position: i64) -> Result<Link<'_>, sqlx::Error> {
    Ok(Link {
        position,
        aggregate_type: row.try_get(1)?,
        aggregate_id: row.try_get(2)?,
        sequence: row.try_get(3)?,
        event_type: row.try_get(4)?,
        event_version: row.try_get(5)?,
        payload: text(row, 6)?,
        metadata: text(row, 7)?,
        recorded_at: row.try_get(8)?,
        hash: row.try_get(9)?,
    })
}

/// A value of type json, which PostgreSQL sends as the text that it is.
fn text(row: &PgRow, column: usize) -> Result<&str, sqlx::Error> {
    row.try_get_raw(column)?.as_str().map_err(sqlx::Error::Decode)
}
