//! How slowly a request body may arrive.

use std::time::Duration;

use super::error::RequestError;

/// What arrives this fast is never too slow.
pub const MIN_BYTES_PER_SECOND: usize = 16 * 1024;

/// Limits the time that the gateway waits for a client in the middle of a body: `limit`, and what the bytes that arrive may
/// take. Never more than `limit` at a time, so a fast start does not pay for a slow end.
#[derive(Debug)]
pub struct Pace {
    limit: Duration,
    left: Duration,
    waited: Duration,
    received_bytes: usize,
}

// === impl Pace ===

impl Pace {
    pub fn new(limit: Duration) -> Self {
        Self { limit, left: limit, waited: Duration::ZERO, received_bytes: 0 }
    }

    /// How long to wait for more.
    pub fn left(&self) -> Duration {
        self.left
    }

    /// Counts a wait, and the bytes that ended it.
    pub fn count(&mut self, bytes: usize, waited: Duration) {
        self.received_bytes += bytes;
        self.waited += waited;
        let earned = Duration::from_micros(bytes as u64 * 1_000_000 / MIN_BYTES_PER_SECOND as u64);
        self.left = (self.left.saturating_sub(waited) + earned).min(self.limit);
    }

    /// The error when nothing came for as long as was left.
    pub fn too_slow(&self) -> RequestError {
        RequestError::BodyTimeout {
            received_bytes: self.received_bytes,
            waited: self.waited + self.left,
            limit: self.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_body_at_the_least_rate_may_take_any_time() {
        let mut pace = Pace::new(LIMIT);
        for _ in 0..10_000 {
            pace.count(2 * MIN_BYTES_PER_SECOND, Duration::from_secs(2));
        }
        assert_eq!(pace.left(), LIMIT);
    }

    #[test]
    fn what_came_fast_does_not_pay_for_what_comes_slowly() {
        let mut pace = Pace::new(LIMIT);
        pace.count(64 << 20, Duration::from_secs(1));
        for _ in 0..2 {
            pace.count(1, Duration::from_secs(10));
        }
        assert_eq!(pace.left().as_secs(), 10);
        let RequestError::BodyTimeout { received_bytes, waited, .. } = pace.too_slow() else { panic!() };
        assert_eq!((received_bytes, waited.as_secs()), ((64 << 20) + 2, 31));
    }
}
