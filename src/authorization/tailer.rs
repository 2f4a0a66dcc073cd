//! Feeds the index from the log: batch after batch, woken by whoever appends, polling underneath. Each time it finds
//! nothing more to read, the node may vouch for what it knows a little longer; when it can't read, that runs out and the
//! node denies.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use projections::log::{ReadLogError, read_after};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::Index;
use crate::clock::{Clock, since_boot};
use crate::follow::Follower;
use crate::report::Report;

/// Events in one read.
const BATCH: i64 = 1000;
/// The longest time between two looks at the log.
const POLL: Duration = Duration::from_millis(50);
/// After a failed read.
const BACK_OFF: Duration = Duration::from_millis(100);
/// A read that takes longer has failed: it proves nothing about now.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Keeps one index up to date.
#[derive(Debug)]
pub struct Tailer {
    pool: PgPool,
    index: Arc<Index>,
    clock: Clock,
    max_staleness: Duration,
}

impl Tailer {
    /// A tailer from the beginning of the log.
    #[must_use]
    pub fn new(pool: PgPool, index: Arc<Index>, clock: Clock, max_staleness: Duration) -> Self {
        Self {
            pool,
            index,
            clock,
            max_staleness,
        }
    }

    /// Follows the log until it is told to stop.
    pub async fn run(self, mut wake: Follower, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match tokio::time::timeout(READ_LIMIT, self.step()).await {
                Ok(Ok(Read::More)) => {}
                Ok(Ok(Read::All)) => wake.next(self.index.position(), POLL, &stop).await,
                Ok(Err(error)) => {
                    tracing::error!(
                        position = self.index.position(),
                        error = %Report(&error),
                        "the index can't follow the log"
                    );
                    tokio::time::sleep(BACK_OFF).await;
                }
                Err(_) => {
                    tracing::error!(
                        position = self.index.position(),
                        "the index can't follow the log: reading takes too long"
                    );
                }
            }
        }
    }

    /// Reads and applies the next batch.
    async fn step(&self) -> Result<Read, ReadLogError> {
        let as_of = since_boot();
        let mut connection = self.pool.acquire().await?;
        let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
            .fetch_one(&mut *connection)
            .await?;
        self.clock.measured(now);
        let page = read_after(&mut connection, self.index.position(), BATCH).await?;
        self.index.apply(&page.events);
        if page.is_last {
            // The read began after `as_of` and found the end of the log: nothing committed before it is missing.
            self.index.confirmed(as_of, self.max_staleness);
            return Ok(Read::All);
        }
        Ok(Read::More)
    }
}

enum Read {
    More,
    All,
}
