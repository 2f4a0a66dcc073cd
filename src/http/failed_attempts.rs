//! Failed authentications are counted per client address, and after so many in a minute refused by name. Nobody who can
//! authenticate ever meets this: addresses are shared.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;

use super::Service;
use super::client_address::client_address;

/// Failures of one address within [`WINDOW`] that are answered as what they are.
const MAX_FAILURES: u32 = 100;
/// How long an address's failures count, from its first.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are counted at once, some 100 bytes each: past this the oldest window is forgotten.
const MAX_ADDRESSES: usize = 65_536;

/// Counts failed authentications by client address. Shared by everything that authenticates.
#[derive(Debug, Default)]
pub struct FailedAttempts(Mutex<Windows>);

/// Too many failures from one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyFailures {
    /// When it is over, in whole seconds from now; at least 1.
    pub(super) retry_after: u64,
}

impl Service {
    /// Counts a failed authentication by the client of this request. To be called where, and only where, the answer would
    /// be 401.
    pub(super) fn count_failure(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), TooManyFailures> {
        let address = client_address(peer, headers, self.trusted_proxy_hops).unwrap_or(peer.to_canonical());
        self.failed_attempts.count(address)
    }
}

impl FailedAttempts {
    fn count(&self, address: IpAddr) -> Result<(), TooManyFailures> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that windows stand in the order of their times.
        windows.count(address, Instant::now())
    }
}

#[derive(Debug, Default)]
struct Windows {
    /// Only windows that are not over: one for each of `oldest_first`.
    by_address: HashMap<IpAddr, Window>,
    oldest_first: VecDeque<(Instant, IpAddr)>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    failures: u32,
}

impl Windows {
    fn count(&mut self, address: IpAddr, now: Instant) -> Result<(), TooManyFailures> {
        let address = counted_as(address);
        if address.is_loopback() {
            return Ok(());
        }
        self.forget(now);
        let window = self.by_address.entry(address).or_insert_with(|| {
            self.oldest_first.push_back((now, address));
            Window {
                since: now,
                failures: 0,
            }
        });
        window.failures = window.failures.saturating_add(1);
        let result = if window.failures <= MAX_FAILURES {
            Ok(())
        } else {
            let left = WINDOW.saturating_sub(now.saturating_duration_since(window.since));
            Err(TooManyFailures {
                retry_after: left.as_millis().div_ceil(1000).try_into().unwrap_or(1).max(1),
            })
        };
        if self.by_address.len() > MAX_ADDRESSES {
            self.forget_oldest();
        }
        result
    }

    /// Forgets every window that is over.
    fn forget(&mut self, now: Instant) {
        while self
            .oldest_first
            .front()
            .is_some_and(|(since, _)| now.saturating_duration_since(*since) >= WINDOW)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, address)) = self.oldest_first.pop_front() {
            self.by_address.remove(&address);
        }
    }
}

/// One client has a whole /64 of v6 addresses to choose from (RFC 6177), and a v4 address may be written as v6.
fn counted_as(address: IpAddr) -> IpAddr {
    const PREFIX: u128 = u128::MAX << 64;
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => Ipv6Addr::from_bits(v6.to_bits() & PREFIX).into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fail(windows: &mut Windows, address: &str, times: u32, now: Instant) {
        for nth in 1..=times {
            assert_eq!(windows.count(ip(address), now), Ok(()), "failure {nth}");
        }
    }

    /// Tried: `<` for `<=` in `count`; `>` for `>=` in `forget`.
    #[test]
    fn a_hundred_failures_a_minute_are_answered_and_the_next_is_too_many() {
        let (mut windows, start) = (Windows::default(), Instant::now());
        fail(&mut windows, "203.0.113.1", 1, start);
        fail(&mut windows, "203.0.113.1", 99, start + 30 * SECOND);
        let seconds = |text| {
            let too_many = |failed: Result<(), TooManyFailures>| failed.unwrap_err().retry_after;
            move |windows: &mut Windows, now| too_many(windows.count(ip(text), now))
        };
        let retry_after = seconds("203.0.113.1");
        assert_eq!(retry_after(&mut windows, start + 30 * SECOND), 30);
        assert_eq!(
            retry_after(&mut windows, start + Duration::from_millis(58_001)),
            2
        );
        let last = start + WINDOW - Duration::from_nanos(1);
        assert_eq!(retry_after(&mut windows, last), 1);
        // The minute runs from the first failure, however many followed, and all of it starts anew.
        fail(&mut windows, "203.0.113.1", 100, start + WINDOW);
        assert_eq!(retry_after(&mut windows, start + WINDOW), 60);
    }

    #[test]
    fn another_address_is_not_affected() {
        let (mut windows, now) = (Windows::default(), Instant::now());
        fail(&mut windows, "203.0.113.1", 100, now);
        assert!(windows.count(ip("203.0.113.1"), now).is_err());
        fail(&mut windows, "203.0.113.2", 100, now);
    }

    /// Tried: no `counted_as`.
    #[test]
    fn a_v6_network_of_64_bits_is_one_client_and_a_mapped_address_is_v4() {
        let (mut windows, now) = (Windows::default(), Instant::now());
        for nth in 0..100 {
            assert_eq!(windows.count(ip(&format!("2001:db8::{nth:x}:1")), now), Ok(()));
        }
        assert!(
            windows
                .count(ip("2001:db8:0:0:ffff:ffff:ffff:ffff"), now)
                .is_err()
        );
        fail(&mut windows, "2001:db8:0:1::1", 100, now);
        fail(&mut windows, "203.0.113.1", 100, now);
        assert!(windows.count(ip("::ffff:203.0.113.1"), now).is_err());
    }

    /// Tried: without `is_loopback`.
    #[test]
    fn loopback_is_never_limited() {
        let (mut windows, now) = (Windows::default(), Instant::now());
        for address in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            fail(&mut windows, address, 500, now);
        }
        assert!(windows.by_address.is_empty());
    }

    /// Tried: without `forget_oldest` in `count`: it grows. Refusing to count the new one instead: the last one is not limited.
    #[test]
    fn a_bounded_number_of_addresses_is_kept_and_the_oldest_is_forgotten() {
        let (mut windows, start) = (Windows::default(), Instant::now());
        fail(&mut windows, "203.0.113.1", 100, start);
        let bound = u32::try_from(MAX_ADDRESSES).unwrap();
        let others = (1..bound).map(|nth| IpAddr::from((0x0A00_0000 + nth).to_be_bytes()));
        for other in others {
            assert_eq!(windows.count(other, start + SECOND), Ok(()));
        }
        assert!(
            windows.count(ip("203.0.113.1"), start + SECOND).is_err(),
            "all of them fit"
        );
        fail(&mut windows, "203.0.113.2", 100, start + SECOND);
        assert_eq!(windows.by_address.len(), MAX_ADDRESSES);
        assert_eq!(windows.oldest_first.len(), MAX_ADDRESSES);
        assert!(
            windows.count(ip("203.0.113.2"), start + SECOND).is_err(),
            "the new one counts"
        );
        fail(&mut windows, "203.0.113.1", 1, start + SECOND);
        // And what is over takes no room.
        fail(&mut windows, "203.0.113.3", 1, start + SECOND + WINDOW);
        assert_eq!((windows.by_address.len(), windows.oldest_first.len()), (1, 1));
    }
}
