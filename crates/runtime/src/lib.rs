//! What every part of Antiphon needs while it runs: the clock, tasks, threads, and figures about memory.
//!
//! Nothing in this crate knows about responses, stores or upstreams.

pub mod background;
mod clock;
mod deadline;
mod fair_semaphore;
pub mod fairness;
pub mod files;
mod gauge;
pub mod hex;
pub mod memory;
pub mod offload;
pub mod process;
mod signal;
mod tasks;
mod time;
pub mod workers;

use std::sync::Arc;

pub use self::clock::{Clock, SystemClock, Timestamp};
pub use self::deadline::Deadline;
pub use self::fair_semaphore::{FairPermit, FairSemaphore};
pub use self::gauge::GaugeGuard;
pub use self::signal::{Listener, Signal};
pub use self::tasks::Tasks;
pub use self::time::{parse_http_date, parse_rfc3339, rfc3339, whole_seconds};

/// What components need from the process: a clock, and a place to spawn tasks.
#[derive(Debug, Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub tasks: Tasks,
}
