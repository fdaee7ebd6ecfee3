//! The only place where the simulator reads the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[expect(
    clippy::disallowed_methods,
    reason = "the simulator plays a remote machine, which has its own clock"
)]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(super) fn unix_seconds() -> u64 {
    since_epoch().as_secs()
}

pub(super) fn unix_nanoseconds() -> u64 {
    u64::try_from(since_epoch().as_nanos()).unwrap_or(u64::MAX)
}
