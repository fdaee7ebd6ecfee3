//! What the system says about this process.

use std::{fs, io};

use crate::memory;

/// What this process takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub open_fds: u64,
}

/// # Errors
/// Those of reading `/proc/self`, which only Linux has.
pub fn figures() -> io::Result<Figures> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let ticks = cpu_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Figures {
        cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        resident_bytes: memory::resident_bytes()?,
        open_fds: fs::read_dir("/proc/self/fd")?.count() as u64,
    })
}

/// The fields `utime` and `stime`. The name of the program comes before them, and may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b c) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (a"), None);
    }

    #[test]
    fn this_process_takes_something() {
        let figures = figures().unwrap();
        assert!(figures.resident_bytes > 0 && figures.open_fds > 0 && figures.cpu_seconds >= 0.0);
    }
}
