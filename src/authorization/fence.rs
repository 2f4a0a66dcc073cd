//! Until when this node may decide. Its lease carries it so far and no further: a node that has lost sight of the log, or
//! that stood still, denies. Whoever decides takes a pass first, then looks at what it decides from, and looks last whether
//! the pass still holds. Reading takes no lock; one task writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::BootClock;

/// Open while this node may vouch for what it knows. Closed at the start.
#[derive(Debug, Default)]
pub struct Fence {
    clock: BootClock,
    /// In nanoseconds since boot.
    open_until: AtomicU64,
    /// How often it was closed before its time: a pass from before holds no more, though it is open again.
    closings: AtomicU64,
}

/// Until when one may decide from what one looks at from now on.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    until: u64,
    closings: u64,
}

impl Fence {
    /// A closed fence by this clock.
    #[must_use]
    pub fn new(clock: BootClock) -> Self {
        Self {
            clock,
            open_until: AtomicU64::new(0),
            closings: AtomicU64::new(0),
        }
    }

    /// Take it before looking at anything that is decided from: a later renewal vouches only for what was looked at later.
    #[must_use]
    pub fn pass(&self) -> Pass {
        let closings = self.closings.load(Ordering::Acquire);
        Pass {
            until: self.open_until.load(Ordering::Acquire),
            closings,
        }
    }

    /// Does it still hold? Ask after the decision was made: a node may stand still in between.
    #[must_use]
    pub fn holds(&self, pass: Pass) -> bool {
        self.closings.load(Ordering::Acquire) == pass.closings
            && nanoseconds(self.clock.since_boot()) < pass.until
    }

    /// Is it open now? For whoever decides nothing by it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.holds(self.pass())
    }

    /// Opens it until this time since boot.
    pub(super) fn open_until(&self, until: Duration) {
        self.open_until.store(nanoseconds(until), Ordering::Release);
    }

    /// Closes it at once.
    pub(super) fn close(&self) {
        self.open_until.store(0, Ordering::Release);
        self.closings.fetch_add(1, Ordering::AcqRel);
    }
}

/// Enough for 580 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn at(seconds: u64) -> (Fence, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(seconds * 1_000_000_000));
        (Fence::new(BootClock::Set(Arc::clone(&time))), time)
    }

    /// A thread that has looked, and then stood still while the node lapsed, caught up and was renewed, knows what it looked at
    /// and no more. Tried: `holds` looking at what the fence is open until now.
    #[test]
    fn a_pass_from_before_a_renewal_holds_no_longer_than_it_did() {
        let (fence, time) = at(10);
        fence.open_until(Duration::from_secs(11));
        let pass = fence.pass();
        assert!(fence.holds(pass));
        time.store(12_000_000_000, Ordering::Relaxed);
        fence.open_until(Duration::from_secs(13));
        assert!(fence.is_open());
        assert!(!fence.holds(pass));
    }

    /// Tried: without the count of closings.
    #[test]
    fn a_pass_from_before_it_was_closed_never_holds_again() {
        let (fence, _) = at(10);
        fence.open_until(Duration::from_secs(12));
        let pass = fence.pass();
        fence.close();
        assert!(!fence.holds(pass));
        fence.open_until(Duration::from_secs(12));
        assert!(fence.is_open());
        assert!(!fence.holds(pass));
    }
}
