//! The background runtime of a serving process, beside its workers.
//!
//! | thread | runs |
//! | --- | --- |
//! | `worker-N`, one per core ([`workers`](crate::workers)) | client connections with their turns and sockets, connections to upstreams, turns that continue without their client |
//! | `background`, two, started here | accepting connections, background jobs, PostgreSQL's connections and writers |
//! | blocking threads, one per core ([`offload`](crate::offload)) | large bodies |
//! | `sqlite-writer`, `sqlite-reader`, one per connection | SQLite, which blocks |
//!
//! There are two background threads, so that a slow job, or compressing a batch for the store, does not delay connections.
//! There are no more, because the workers use the cores.

use std::io;

use tokio::runtime::{Builder, Runtime};

const THREADS: usize = 2;

pub fn start() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(THREADS).thread_name("background").enable_all().build()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;
    use crate::workers::worker_index;

    #[test]
    fn a_slow_task_does_not_delay_another() {
        let runtime = start().unwrap();
        // Each task blocks its thread until the other one runs as well.
        let both = Arc::new(Barrier::new(2));
        let task = || {
            let both = Arc::clone(&both);
            runtime.spawn(async move {
                both.wait();
                (std::thread::current().name().map(str::to_owned), worker_index())
            })
        };
        for task in [task(), task()] {
            assert_eq!(runtime.block_on(task).unwrap(), (Some("background".to_owned()), 0));
        }
    }
}
