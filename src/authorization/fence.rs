//! Until when this node may decide. Its lease carries it so far and no further: a node that has lost sight of the log, or
//! that stood still, denies. Reading takes no lock; one task writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::BootClock;

/// Open while this node may vouch for what it knows. Closed at the start.
#[derive(Debug, Default)]
pub struct Fence {
    clock: BootClock,
    /// In nanoseconds since boot.
    open_until: AtomicU64,
}

impl Fence {
    /// A closed fence by this clock.
    #[must_use]
    pub fn new(clock: BootClock) -> Self {
        Self {
            clock,
            open_until: AtomicU64::new(0),
        }
    }

    /// Is it open? Ask after a decision was made, never before: a node may stand still in between.
    #[must_use]
    pub fn is_open(&self) -> bool {
        nanoseconds(self.clock.since_boot()) < self.open_until.load(Ordering::Acquire)
    }

    /// Opens it until this time since boot.
    pub(super) fn open_until(&self, until: Duration) {
        self.open_until.store(nanoseconds(until), Ordering::Release);
    }

    /// Closes it at once.
    pub(super) fn close(&self) {
        self.open_until.store(0, Ordering::Release);
    }
}

/// Enough for 580 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
