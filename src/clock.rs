//! The time. Events and expiries go by the database's clock, measured with each lease; how fresh a node is, and how long
//! anything has lasted, goes by a clock that counts suspension and that nobody can set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rustix::time::{ClockId, clock_gettime};

/// The farthest a node's idea of the database's time may be from it.
pub const MAX_SKEW: TimeDelta = TimeDelta::milliseconds(250);

/// No measurement yet.
const UNKNOWN: i64 = i64::MIN;

/// What a measurement of the database's time says of what was known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// It is known to within [`MAX_SKEW`].
    Known,
    /// Nothing: it took too long to answer.
    Uncertain,
    /// It was not what was known: the database's clock has jumped. It is believed from the next measurement on.
    Jumped,
}

/// The database's time, as far as this node knows it: this machine's own clock may be set meanwhile. Cheap to clone;
/// clones share what was measured.
#[derive(Clone, Debug)]
pub struct Clock {
    boot: BootClock,
    /// The database's time when this machine started, in microseconds since 1970.
    booted_at: Arc<AtomicI64>,
    /// How far from it that may be, in microseconds.
    error: Arc<AtomicI64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(BootClock::default())
    }
}

impl Clock {
    /// The database's time, counted on by this clock between two measurements.
    #[must_use]
    pub fn new(boot: BootClock) -> Self {
        Self {
            boot,
            booted_at: Arc::new(AtomicI64::new(UNKNOWN)),
            error: Arc::default(),
        }
    }

    /// The clock that counts on.
    #[must_use]
    pub fn boot(&self) -> &BootClock {
        &self.boot
    }

    /// The database's time; this machine's as long as that is not known.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let booted_at = self.booted_at.load(Ordering::Relaxed);
        if booted_at == UNKNOWN {
            return Utc::now();
        }
        DateTime::from_timestamp_micros(booted_at.saturating_add(microseconds(self.boot.since_boot())))
            .unwrap_or_else(Utc::now)
    }

    /// Takes note of what the database said the time was, which it was asked and answered at these times since boot.
    #[must_use]
    pub fn measured(&self, database: DateTime<Utc>, asked: Duration, answered: Duration) -> Measured {
        let max_skew = MAX_SKEW.num_microseconds().unwrap_or(0);
        let half = microseconds(answered.saturating_sub(asked)) / 2;
        if half > max_skew {
            return Measured::Uncertain;
        }
        let booted_at = database
            .timestamp_micros()
            .saturating_sub(microseconds(asked).saturating_add(half));
        let before = self.booted_at.swap(booted_at, Ordering::Relaxed);
        let error_before = self.error.swap(half, Ordering::Relaxed);
        // What two slow answers explain is no jump.
        let bound = max_skew.saturating_add(half).saturating_add(error_before);
        if before == UNKNOWN || booted_at.abs_diff(before) <= bound.unsigned_abs() {
            Measured::Known
        } else {
            Measured::Jumped
        }
    }
}

/// Time since the machine started, suspension included (`CLOCK_BOOTTIME`; `Instant` stands still in a suspension).
#[derive(Clone, Debug, Default)]
pub enum BootClock {
    /// This machine's.
    #[default]
    Machine,
    /// One that stands still until it is moved, in nanoseconds.
    Set(Arc<AtomicU64>),
}

impl BootClock {
    /// The time.
    #[must_use]
    pub fn since_boot(&self) -> Duration {
        match self {
            Self::Machine => {
                let time = clock_gettime(ClockId::Boottime);
                Duration::new(
                    u64::try_from(time.tv_sec).unwrap_or(0),
                    u32::try_from(time.tv_nsec).unwrap_or(0),
                )
            }
            Self::Set(nanoseconds) => Duration::from_nanos(nanoseconds.load(Ordering::Relaxed)),
        }
    }
}

fn microseconds(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_700_000_000_000_000;

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(micros).unwrap()
    }

    fn set(millis: u64) -> (Clock, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(millis * 1_000_000));
        (Clock::new(BootClock::Set(Arc::clone(&time))), time)
    }

    #[test]
    fn it_counts_on_from_the_last_measurement_whatever_this_machine_says() {
        let (clock, time) = set(5_000);
        let (asked, answered) = (Duration::from_millis(4_990), Duration::from_millis(5_000));
        assert_eq!(clock.measured(at(START), asked, answered), Measured::Known);
        assert_eq!(clock.now(), at(START + 5_000));
        time.fetch_add(2_000_000_000, Ordering::Relaxed);
        assert_eq!(clock.now(), at(START + 2_005_000));
    }

    /// Tried: with what was measured before not looked at.
    #[test]
    fn a_database_clock_that_jumps_further_than_the_bound_is_not_believed_at_once() {
        let (known, jumped) = (Measured::Known, Measured::Jumped);
        for (jump, expected) in [
            (250_000, known),
            (-250_000, known),
            (250_001, jumped),
            (-250_001, jumped),
        ] {
            let (clock, _) = set(1_000);
            let now = Duration::from_millis(1_000);
            assert_eq!(clock.measured(at(START), now, now), known);
            assert_eq!(clock.measured(at(START + jump), now, now), expected, "{jump}");
            assert_eq!(
                clock.measured(at(START + jump), now, now),
                known,
                "{jump}, the second time"
            );
        }
    }

    #[test]
    fn an_answer_that_took_too_long_says_nothing_of_the_time() {
        let (clock, _) = set(1_000);
        let asked = Duration::from_millis(100);
        let measured = |answered| clock.measured(at(START), asked, Duration::from_millis(answered));
        assert_eq!(measured(601), Measured::Uncertain);
        assert_eq!(measured(600), Measured::Known);
    }

    #[test]
    fn what_a_slow_answer_explains_is_no_jump() {
        let (clock, _) = set(1_000);
        let asked = Duration::from_millis(400);
        assert_eq!(clock.measured(at(START), asked, asked), Measured::Known);
        // 300 ms ahead it seems, by an answer that took 400 ms on its way back.
        let answered = Duration::from_millis(800);
        let found = clock.measured(at(START + 500_000), asked, answered);
        assert_eq!(found, Measured::Known);
    }
}
