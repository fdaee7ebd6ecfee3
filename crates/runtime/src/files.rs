//! How many files the process may have open. Connections are files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Those beside the connections of clients and upstreams: the database, the log, the runtime.
const OWN_FILES: u64 = 200;

/// How many files so many connections of clients may need. Each may have one to its upstream.
pub fn needed(connections: usize) -> u64 {
    2 * connections as u64 + OWN_FILES
}

/// How many connections of clients so many files are enough for.
pub fn connections(files: u64) -> usize {
    usize::try_from(files.saturating_sub(OWN_FILES) / 2).unwrap_or(usize::MAX).max(1)
}

/// How many files the process may open at most, once it has [asked](raise_limit) for it; `None` if there is no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Raises the limit as far as the process may.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    // If the system allows less than it says, the limit stays what it was.
    setrlimit(Resource::Nofile, raised).ok();
}

/// As many of these connections of clients as leave files for upstreams and the store.
pub fn fitting(connections: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current;
    files.map_or(connections, |files| connections.min(self::connections(files)))
}
