//! What every part of Antiphon needs while it runs: the clock, tasks, and threads.
//!
//! Nothing in here knows of responses, stores or upstreams.

pub mod background;
mod clock;
mod gauge;
pub mod hex;
mod tasks;
mod time;
pub mod workers;

use std::sync::Arc;

pub use self::clock::{Clock, SystemClock, Timestamp};
pub use self::gauge::GaugeGuard;
pub use self::tasks::Tasks;
pub use self::time::{parse_rfc3339, rfc3339, whole_seconds};

/// What components get when they are built: where they read the time, and where they spawn tasks.
#[derive(Debug, Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub tasks: Tasks,
}
