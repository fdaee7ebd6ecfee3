//! Limits how often somebody may try something: failed authentication for each address, and sign-ins.
//!
//! Secrets cannot be guessed; this keeps one address from filling the log and from costing more than others. Of clients, only
//! failed attempts are counted: one with a valid key is served, whatever else its address has tried.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use antiphon_store::Timestamp;

/// How many attempts may be made at once, and how long it takes until another one may.
const BURST: i64 = 30;
const INTERVAL_MS: i64 = 2_000;
const BURST_MS: i64 = BURST * INTERVAL_MS;
/// How many have a bucket of their own. Further ones share one.
const MAX_BUCKETS: usize = 10_000;

/// A leaky bucket for everybody who is counted: when it will be empty, in UTC milliseconds. The one of `None` is shared.
#[derive(Debug)]
pub struct Attempts<K> {
    empty_at: Mutex<HashMap<Option<K>, i64>>,
}

/// Attempts of addresses.
#[derive(Debug, Default)]
pub struct FailedAttempts(Attempts<IpAddr>);

// === impl FailedAttempts ===

impl FailedAttempts {
    /// Counts a failed attempt. The error says how long the address has to wait before the next one.
    pub fn count(&self, address: IpAddr, now: Timestamp) -> Result<(), Duration> {
        self.0.count(network_of(address), now)
    }
}

// === impl Attempts ===

impl<K> Default for Attempts<K> {
    fn default() -> Self {
        Self { empty_at: Mutex::default() }
    }
}

impl<K: Eq + Hash> Attempts<K> {
    /// Counts an attempt. The error says how long to wait before the next one.
    pub fn count(&self, who: K, now: Timestamp) -> Result<(), Duration> {
        let now = now.unix_ms();
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = bucket_for(&mut empty_at, who, now);
        let at = empty_at.entry(bucket).or_insert(now);
        // If the clock was set back, nobody is locked out for longer than usual.
        *at = (*at).clamp(now, now + BURST_MS);
        let next = *at + INTERVAL_MS;
        if next > now + BURST_MS {
            let wait_ms = next - BURST_MS - now;
            return Err(Duration::from_millis(wait_ms.unsigned_abs()));
        }
        *at = next;
        Ok(())
    }
}

/// The bucket that counts them; removes empty buckets to make room for it.
fn bucket_for<K: Eq + Hash>(empty_at: &mut HashMap<Option<K>, i64>, who: K, now: i64) -> Option<K> {
    let own = Some(who);
    if empty_at.len() < MAX_BUCKETS || empty_at.contains_key(&own) {
        return own;
    }
    // A scan is worth it only if it may make room: not before the oldest bucket is empty.
    let is_due = empty_at.get(&None).is_none_or(|at| *at <= now + BURST_MS - INTERVAL_MS);
    if is_due {
        empty_at.retain(|_, at| *at > now);
    }
    if empty_at.len() < MAX_BUCKETS { own } else { None }
}

/// The /64 network of an IPv6 address: a client with one address of it has all of them.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_795_000_000_000 + ms)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn exhaust(attempts: &FailedAttempts, who: &str, ms: i64) -> usize {
        (0..1000).take_while(|_| attempts.count(address(who), at(ms)).is_ok()).count()
    }

    #[test]
    fn a_burst_may_fail_and_then_one_at_a_time() {
        let attempts = FailedAttempts::default();
        assert_eq!(exhaust(&attempts, "192.0.2.1", 0), 30);
        assert_eq!(attempts.count(address("192.0.2.1"), at(500)), Err(Duration::from_millis(1_500)));
        assert_eq!(exhaust(&attempts, "192.0.2.1", 2_000), 1);
        assert_eq!(exhaust(&attempts, "192.0.2.1", 600_000), 30);
    }

    #[test]
    fn addresses_are_counted_separately_and_networks_together() {
        let attempts = FailedAttempts::default();
        assert_eq!(exhaust(&attempts, "192.0.2.1", 0), 30);
        assert_eq!(exhaust(&attempts, "::ffff:192.0.2.1", 0), 0, "the same address");
        assert_eq!(exhaust(&attempts, "192.0.2.2", 0), 30);
        assert_eq!(exhaust(&attempts, "2001:db8:0:1::1", 0), 30);
        assert_eq!(exhaust(&attempts, "2001:db8:0:1:ffff::2", 0), 0);
        assert_eq!(exhaust(&attempts, "2001:db8:0:2::1", 0), 30);
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let attempts = FailedAttempts::default();
        exhaust(&attempts, "192.0.2.1", 86_400_000);
        let rest = attempts.count(address("192.0.2.1"), at(0)).unwrap_err();
        assert!(rest <= Duration::from_millis(2_000), "{rest:?}");
        assert_eq!(exhaust(&attempts, "192.0.2.1", 2_000), 1);
        assert_eq!(exhaust(&attempts, "192.0.2.1", 600_000), 30);
    }

    #[test]
    fn memory_is_bounded_and_room_is_made() {
        let attempts = FailedAttempts::default();
        let address = |n: u32| IpAddr::V4(n.into());
        let refused = (0..30_000).filter(|n| attempts.count(address(*n), at(0)).is_err()).count();
        assert!(refused >= 19_000, "further addresses share a bucket: {refused}");
        let held = || attempts.0.empty_at.lock().unwrap().len();
        assert!(held() <= MAX_BUCKETS + 1);
        assert_eq!(attempts.count(address(40_000), at(10_000)), Ok(()));
        assert!(held() < 3, "{}", held());
    }
}
