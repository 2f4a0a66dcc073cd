//! What is not kept for ever: the contents of parked messages, which hold names and addresses. That they were parked, why and
//! of whom, stays; what can still be done with one then is to drop it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use projections::parked::erase_before;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::database::within;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(600);
/// How long it may take; what is erased by then is.
const LIMIT: Duration = Duration::from_secs(300);
/// Messages erased by one statement.
const BATCH: i64 = 1000;

/// Erases what has been kept long enough.
#[derive(Debug)]
pub struct Retention {
    pool: PgPool,
    parked: TimeDelta,
}

impl Retention {
    /// One that keeps the contents of parked messages for so many days.
    #[must_use]
    pub fn new(pool: PgPool, parked_days: u32) -> Self {
        Self {
            pool,
            parked: TimeDelta::days(parked_days.into()),
        }
    }

    /// Until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match within(LIMIT, self.erase()).await {
                Ok(0) => {}
                Ok(erased) => tracing::info!(erased, "the contents of parked messages were erased"),
                Err(error) => tracing::warn!(%error, "parked messages can't be erased, trying again later"),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn erase(&self) -> Result<u64, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
            .fetch_one(&mut *connection)
            .await?;
        let Some(before) = now.checked_sub_signed(self.parked) else {
            return Ok(0);
        };
        let mut erased: u64 = 0;
        loop {
            match erase_before(&mut connection, before, BATCH).await? {
                0 => return Ok(erased),
                more => erased = erased.saturating_add(more),
            }
        }
    }
}
