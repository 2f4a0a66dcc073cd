//! The leases of all nodes, as the database has them. A node commits its own before it looks for the end of the log, in two
//! statements: one that did both could commit after an event and still not have seen it. A node is deleted by itself when it
//! stops, or by whoever has seen it stand still for longer than it may decide.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

/// A node's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// Whose. New with every start of a process.
    pub node_id: Uuid,
    /// Counts the renewals.
    pub beat: i64,
    /// The last position that all its decisions reflect.
    pub applied: i64,
    /// How long it decides after a renewal.
    pub max_staleness: Duration,
}

/// The end of the log, and whether it is still the log that a node has followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The newest position; 0 for an empty log.
    pub position: i64,
    /// The database's time.
    pub time: DateTime<Utc>,
    /// Which log this is.
    pub epoch: Uuid,
    /// The hash of the event that was asked for; none: there is no such event.
    pub hash: Option<Vec<u8>>,
}

/// Says that this node goes on deciding, and how far it has come; committed when this returns. Where somebody has deleted the
/// lease the node starts over: whoever revokes from now on waits for it. False where nothing was said: the event that the
/// node has applied last is not the one with this hash, so that its position means nothing here; or a later renewal is there.
/// A standby, which may not know the end of the log, refuses to write: whoever has renewed by a connection is on the primary.
///
/// The node counts the beat itself, so that none ever comes twice: who has seen one stand still may not take a later lease
/// for that one.
///
/// # Errors
/// Where the database is out of reach.
pub(super) async fn renew(
    connection: &mut PgConnection,
    lease: &Lease,
    hash: Option<&[u8]>,
) -> Result<bool, sqlx::Error> {
    // A renewal that was given up may still arrive, after a later one.
    let renewed = sqlx::query(
        "insert into leases as lease (node_id, beat, applied, max_staleness_ms)
         select $1, $2, $3, $4
         where $3 = 0 or (select hash from events where position = $3) = $5
         on conflict (node_id) do update set beat = excluded.beat, applied = excluded.applied
         where excluded.beat > lease.beat",
    )
    .bind(lease.node_id)
    .bind(lease.beat)
    .bind(lease.applied)
    .bind(i64::try_from(lease.max_staleness.as_millis()).unwrap_or(i64::MAX))
    .bind(hash)
    .execute(connection)
    .await?;
    Ok(renewed.rows_affected() == 1)
}

/// The end of the log, with the hash of the event at a position.
///
/// # Errors
/// Where the database is out of reach.
pub(super) async fn head(connection: &mut PgConnection, hash_at: i64) -> Result<Head, sqlx::Error> {
    let row = sqlx::query(
        "select coalesce((select position from events order by position desc limit 1), 0) as position,
                (select hash from events where position = $1) as hash,
                (select epoch from log_epoch) as epoch, clock_timestamp() as time",
    )
    .bind(hash_at)
    .fetch_one(connection)
    .await?;
    Ok(Head {
        position: row.try_get("position")?,
        time: row.try_get("time")?,
        epoch: row.try_get("epoch")?,
        hash: row.try_get("hash")?,
    })
}

/// Everybody's.
///
/// # Errors
/// Where the database is out of reach.
pub(super) async fn all(connection: &mut PgConnection) -> Result<Vec<Lease>, sqlx::Error> {
    let rows = sqlx::query("select node_id, beat, applied, max_staleness_ms from leases")
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let max_staleness_ms: i64 = row.try_get("max_staleness_ms")?;
            Ok(Lease {
                node_id: row.try_get("node_id")?,
                beat: row.try_get("beat")?,
                applied: row.try_get("applied")?,
                max_staleness: Duration::from_millis(u64::try_from(max_staleness_ms).unwrap_or(u64::MAX)),
            })
        })
        .collect()
}

/// A node's own word that it decides no more.
///
/// # Errors
/// Where the database is out of reach.
pub(super) async fn give_up(connection: &mut PgConnection, node_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("delete from leases where node_id = $1")
        .bind(node_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes a lease that has not been renewed since it was seen.
///
/// # Errors
/// Where the database is out of reach.
pub(super) async fn forget(connection: &mut PgConnection, seen: &Lease) -> Result<(), sqlx::Error> {
    sqlx::query("delete from leases where node_id = $1 and beat = $2")
        .bind(seen.node_id)
        .bind(seen.beat)
        .execute(connection)
        .await?;
    Ok(())
}
