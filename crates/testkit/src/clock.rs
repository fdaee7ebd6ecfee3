//! A clock that stands still until it is moved.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use antiphon_store::{Clock, SystemClock, Timestamp};

#[derive(Debug)]
pub struct ManualClock {
    ms: AtomicI64,
}

impl ManualClock {
    pub fn advance(&self, duration: Duration) {
        self.ms.fetch_add(i64::try_from(duration.as_millis()).expect("a short time"), Ordering::SeqCst);
    }

    /// As when an operator corrects it.
    pub fn go_back(&self, duration: Duration) {
        self.ms.fetch_sub(i64::try_from(duration.as_millis()).expect("a short time"), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { ms: AtomicI64::new(SystemClock.now().unix_ms()) }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.ms.load(Ordering::SeqCst))
    }
}
