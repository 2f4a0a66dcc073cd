//! The time. Events and expiries go by the database's clock, whose offset from this machine's is measured with each read
//! of the log's head; how fresh a node is goes by a clock that counts suspension and that nobody can set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rustix::time::{ClockId, clock_gettime};

/// The database's time, as far as this node knows it. Cheap to clone; clones share the offset.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Microseconds to add to this machine's time.
    offset: Arc<AtomicI64>,
}

impl Clock {
    /// The database's time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let offset = TimeDelta::microseconds(self.offset.load(Ordering::Relaxed));
        let here = Utc::now();
        here.checked_add_signed(offset).unwrap_or(here)
    }

    /// Takes note of what the database said the time was, just now.
    pub fn measured(&self, database: DateTime<Utc>) {
        let offset = database
            .signed_duration_since(Utc::now())
            .num_microseconds()
            .unwrap_or(0);
        self.offset.store(offset, Ordering::Relaxed);
    }
}

/// Time since the machine started, suspension included (`CLOCK_BOOTTIME`; `Instant` stands still in a suspension).
#[must_use]
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
