//! When leases are renewed.

use std::time::Duration;

/// How soon a renewal that failed is tried again: what is left of the lease may be short.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The pause before the next renewal.
pub(super) fn pause_after<E>(renewed: &Result<(), E>, interval: Duration) -> Duration {
    if renewed.is_ok() { interval } else { RETRY_PAUSE.min(interval) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_that_failed_is_tried_again_soon() {
        let interval = Duration::from_secs(10);
        assert_eq!(pause_after(&Ok::<_, ()>(()), interval), interval);
        assert_eq!(pause_after(&Err(()), interval), RETRY_PAUSE);
        assert_eq!(pause_after(&Err(()), RETRY_PAUSE / 2), RETRY_PAUSE / 2);
    }
}
