//! When each token was last used: a decision notes it in memory, and it is written down for all of them once a minute, and
//! when the node stops. Never an event, never a write for a request. What a node that is killed had not written is lost.
//!
//! A use is a decision, by evaluation or forward auth, that allows the token something. One that denies is none, nor is
//! introspection, which asks about no action, nor a question about the past.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::TokenId;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Index;
use crate::database::within;
use crate::report::Report;

/// How often it is written down, at most.
const EVERY: Duration = Duration::from_secs(60);
/// Tokens in one statement.
const BATCH: usize = 5_000;
/// How long a node that stops may take to write.
const AT_THE_END: Duration = Duration::from_secs(5);

/// The uses of one token, in seconds since 1970; 0: never.
#[derive(Debug, Default)]
pub(super) struct Uses {
    last: AtomicU32,
    written: AtomicU32,
}

impl Uses {
    /// It is used now. Writes to memory that others read at most once a second.
    pub(super) fn mark(&self, now: DateTime<Utc>) {
        let now = u32::try_from(now.timestamp()).unwrap_or(0);
        if self.last.load(Ordering::Relaxed) < now {
            self.last.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// The last use, if it is not written down yet.
    pub(super) fn unwritten(&self) -> Option<u32> {
        let last = self.last.load(Ordering::Relaxed);
        (last > self.written.load(Ordering::Relaxed)).then_some(last)
    }

    /// Everything up to this one is written down.
    pub(super) fn written(&self, last: u32) {
        self.written.fetch_max(last, Ordering::Relaxed);
    }
}

/// Writes down what an index has noted.
#[derive(Debug)]
pub struct LastUsed {
    pool: PgPool,
    index: Arc<Index>,
}

impl LastUsed {
    /// Of this index.
    #[must_use]
    pub fn new(pool: PgPool, index: Arc<Index>) -> Self {
        Self { pool, index }
    }

    /// Until it is told to stop, and then once more.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = stop.cancelled() => {}
            }
            if let Err(error) = within(AT_THE_END, self.write()).await {
                tracing::warn!(error = %Report(&error), "when tokens were last used is not written down yet");
            }
        }
    }

    /// Writes what is new; answers of how many tokens. What can't be written is kept for the next time.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn write(&self) -> Result<usize, sqlx::Error> {
        let mut written: usize = 0;
        for organization in self.index.organizations() {
            // A million tokens are gone through: others have their turn in between.
            tokio::task::yield_now().await;
            let used = organization.unwritten_uses();
            for batch in used.chunks(BATCH) {
                let rows: Vec<_> = batch.iter().map(|(entry, last)| (entry.id, *last)).collect();
                upsert(&self.pool, &rows).await?;
                for (entry, last) in batch {
                    entry.uses.written(*last);
                }
            }
            written = written.saturating_add(used.len());
        }
        Ok(written)
    }
}

/// The later one stays, whichever node comes last. In the order of the ids: two nodes would wait for each other otherwise.
async fn upsert(pool: &PgPool, rows: &[(TokenId, u32)]) -> Result<(), sqlx::Error> {
    let (ids, times): (Vec<Uuid>, Vec<i64>) = rows
        .iter()
        .map(|(id, last)| (id.as_uuid(), i64::from(*last)))
        .unzip();
    sqlx::query(
        "insert into access_token_uses as u (token_id, last_used_at)
         select id, to_timestamp(seconds) from unnest($1::uuid[], $2::bigint[]) as used (id, seconds) order by id
         on conflict (token_id) do update set last_used_at = excluded.last_used_at
         where u.last_used_at < excluded.last_used_at",
    )
    .bind(ids)
    .bind(times)
    .execute(pool)
    .await?;
    Ok(())
}
