//! Failed attempts to be let in, limited for each address.
//!
//! Secrets can't be guessed; this keeps one address from filling the log and from costing more than others. Only attempts
//! that have failed come here: whoever has a good key is served, whatever else its address has tried.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use antiphon_store::Timestamp;

/// How many may fail at once, and how long it takes until one more may.
const AT_ONCE: i64 = 30;
const INTERVAL_MS: i64 = 2_000;
const FULL_MS: i64 = AT_ONCE * INTERVAL_MS;
/// Addresses that are told apart. When there are more at a time, those that come last share one place.
const MAX_ADDRESSES: usize = 10_000;
const SHARED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// When what each address has tried will be forgotten, in UTC milliseconds.
#[derive(Debug, Default)]
pub struct Attempts {
    forgotten_at: Mutex<HashMap<IpAddr, i64>>,
}

// === impl Attempts ===

impl Attempts {
    /// Counts one more; an error says when the address may try again.
    pub fn count(&self, address: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let now = now.unix_ms();
        let mut forgotten_at = self.forgotten_at.lock().unwrap_or_else(PoisonError::into_inner);
        let address = place(&mut forgotten_at, network(address), now);
        let at = forgotten_at.entry(address).or_insert(now);
        // A clock that was put back must not lock anybody out for as long.
        *at = (*at).clamp(now, now + FULL_MS);
        let next = *at + INTERVAL_MS;
        if next > now + FULL_MS {
            let rest = next - FULL_MS - now;
            return Err(Duration::from_millis(rest.unsigned_abs()));
        }
        *at = next;
        Ok(())
    }
}

/// Where the address is counted, with room made for it.
fn place(forgotten_at: &mut HashMap<IpAddr, i64>, address: IpAddr, now: i64) -> IpAddr {
    if forgotten_at.len() < MAX_ADDRESSES || forgotten_at.contains_key(&address) {
        return address;
    }
    // Looking through all of them is worth it only if that may make room: not before the oldest one is forgotten.
    let is_due = forgotten_at.get(&SHARED).is_none_or(|at| *at <= now + FULL_MS - INTERVAL_MS);
    if is_due {
        forgotten_at.retain(|_, at| *at > now);
    }
    if forgotten_at.len() < MAX_ADDRESSES { address } else { SHARED }
}

/// Who has one address of a network of the sixth version has all of them.
fn network(address: IpAddr) -> IpAddr {
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

    fn exhaust(attempts: &Attempts, who: &str, ms: i64) -> usize {
        (0..1000).take_while(|_| attempts.count(address(who), at(ms)).is_ok()).count()
    }

    #[test]
    fn some_may_fail_at_once_and_then_one_by_one() {
        let attempts = Attempts::default();
        assert_eq!(exhaust(&attempts, "192.0.2.1", 0), 30);
        assert_eq!(attempts.count(address("192.0.2.1"), at(500)), Err(Duration::from_millis(1_500)));
        assert_eq!(exhaust(&attempts, "192.0.2.1", 2_000), 1);
        assert_eq!(exhaust(&attempts, "192.0.2.1", 600_000), 30);
    }

    #[test]
    fn addresses_are_counted_apart_and_networks_together() {
        let attempts = Attempts::default();
        assert_eq!(exhaust(&attempts, "192.0.2.1", 0), 30);
        assert_eq!(exhaust(&attempts, "::ffff:192.0.2.1", 0), 0, "it is the same");
        assert_eq!(exhaust(&attempts, "192.0.2.2", 0), 30);
        assert_eq!(exhaust(&attempts, "2001:db8:0:1::1", 0), 30);
        assert_eq!(exhaust(&attempts, "2001:db8:0:1:ffff::2", 0), 0);
        assert_eq!(exhaust(&attempts, "2001:db8:0:2::1", 0), 30);
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out() {
        let attempts = Attempts::default();
        exhaust(&attempts, "192.0.2.1", 86_400_000);
        let rest = attempts.count(address("192.0.2.1"), at(0)).unwrap_err();
        assert!(rest <= Duration::from_millis(2_000), "{rest:?}");
        assert_eq!(exhaust(&attempts, "192.0.2.1", 2_000), 1);
        assert_eq!(exhaust(&attempts, "192.0.2.1", 600_000), 30);
    }

    #[test]
    fn memory_is_bounded_and_room_is_made() {
        let attempts = Attempts::default();
        let of = |n: u32| IpAddr::V4(n.into());
        let refused = (0..30_000).filter(|n| attempts.count(of(*n), at(0)).is_err()).count();
        assert!(refused >= 19_000, "who finds no place shares one: {refused}");
        let held = || attempts.forgotten_at.lock().unwrap().len();
        assert!(held() <= MAX_ADDRESSES + 1);
        assert_eq!(attempts.count(of(40_000), at(10_000)), Ok(()));
        assert!(held() < 3, "{}", held());
    }
}
