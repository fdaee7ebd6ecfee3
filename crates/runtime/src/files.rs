//! How many files the process may have open. Connections are files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Those beside the connections of clients and upstreams: the database, the log, the runtime.
const OWN_FILES: u64 = 200;

/// The most idle sockets to upstreams, for all accounts together.
const MAX_IDLE_SOCKETS: u64 = 1000;
/// Idle sockets outlive the connections of their clients. This part of all files is theirs.
const IDLE_SOCKETS_PART: u64 = 8;

/// How many files so many connections of clients may need, and the idle sockets with them. Each may have one to its upstream.
pub fn needed(connections: usize) -> u64 {
    let others = 2 * connections as u64 + OWN_FILES;
    others + others.div_ceil(IDLE_SOCKETS_PART - 1).min(MAX_IDLE_SOCKETS)
}

/// How many connections of clients so many files are enough for.
pub fn connections(files: u64) -> usize {
    let others = files.saturating_sub(idle_sockets_of(files) + OWN_FILES);
    usize::try_from(others / 2).unwrap_or(usize::MAX).max(1)
}

/// How many idle sockets to upstreams the process may keep.
pub fn idle_sockets() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(idle_sockets_of(files)).unwrap_or(usize::MAX)
}

fn idle_sockets_of(files: u64) -> u64 {
    (files / IDLE_SOCKETS_PART).min(MAX_IDLE_SOCKETS)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_idle_sockets_never_need_more_files_than_there_are() {
        for files in (0..20_000).chain([1 << 40]) {
            let connections = connections(files);
            let taken = 2 * connections as u64 + OWN_FILES + idle_sockets_of(files);
            assert!(taken <= files || connections == 1, "{files}");
        }
    }

    #[test]
    fn the_files_that_connections_need_are_enough_for_them() {
        for number in 1..20_000 {
            assert!(connections(needed(number)) >= number, "{number}");
            assert!(connections(needed(number) - 4) < number || number == 1, "{number}");
        }
    }
}
