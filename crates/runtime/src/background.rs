//! The runtime beside the workers, for a process that serves.
//!
//! | thread | runs |
//! | --- | --- |
//! | `worker-N`, one a core ([`workers`](crate::workers)) | clients' connections, their turns and sockets, connections to upstreams, turns that go on without their client |
//! | `background`, two, here | accepting connections, background jobs, PostgreSQL's connections and writers |
//! | blocking threads | reads from SQLite, large bodies |
//! | `sqlite-writer` | SQLite's writer, which blocks |
//!
//! Two, so that a batch that is being compressed for the store, or a job that takes its time, keeps no connection waiting; not
//! more, as the workers have the cores.

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
    fn a_task_that_takes_its_time_keeps_no_other_waiting() {
        let runtime = start().unwrap();
        // Each blocks its thread until the other one runs, too.
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
