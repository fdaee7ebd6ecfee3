//! What the system says about memory, which is read here only.

use std::{fs, hint, io, iter};

/// So large that the allocator gives it a page of its own.
const PAGE_BYTES: usize = 1 << 20;

/// The resident memory of this process.
///
/// # Errors
/// Those of reading `/proc/self/statm`, which only Linux has.
pub fn resident_bytes() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Has the allocator return to the system what was freed. It looks for that when it frees a page of its own, and a process with
/// little to do frees none.
pub fn return_freed() {
    drop(hint::black_box(Vec::<u8>::with_capacity(PAGE_BYTES)));
}

/// The memory that this process may take: the machine's, or the smallest limit of its cgroups and their ancestors. `None` if
/// the system says neither.
pub fn available_bytes() -> Option<u64> {
    smallest_limit(|path| fs::read_to_string(path).ok())
}

fn smallest_limit(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let cgroups = read("/proc/self/cgroup").unwrap_or_default();
    let files = cgroups.lines().flat_map(limit_files);
    // A file without a limit says "max".
    let limits = files.filter_map(|file| read(&file)?.trim().parse().ok());
    limits.chain(read("/proc/meminfo").and_then(|text| total_bytes(&text))).min()
}

/// The files with the limits of a cgroup and its ancestors, by its line in `/proc/self/cgroup`. Not all of them exist: a
/// container sees its own cgroup as the root.
fn limit_files(line: &str) -> Vec<String> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let path = path.trim_end_matches('/');
    let ancestors = path.rmatch_indices('/').map(|(end, _)| &path[..end]);
    iter::once(path).chain(ancestors).map(|path| format!("{root}{path}/{file}")).collect()
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"))?;
    Some(kib.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = ("/proc/meminfo", "MemTotal:           4096 kB\nMemFree:    1 kB\n");

    /// On a machine with these files.
    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        smallest_limit(|path| Some(files.iter().find(|(name, _)| *name == path)?.1.to_owned()))
    }

    #[test]
    fn the_smallest_limit_of_all_cgroups_above_counts() {
        let cgroup = ("/proc/self/cgroup", "0::/system.slice/antiphon.service\n");
        let own = ("/sys/fs/cgroup/system.slice/antiphon.service/memory.max", "3000000\n");
        let parent = ("/sys/fs/cgroup/system.slice/memory.max", "2000000\n");
        let root = ("/sys/fs/cgroup/memory.max", "1000000\n");
        assert_eq!(limit(&[MEMINFO, cgroup, own]), Some(3_000_000));
        assert_eq!(limit(&[MEMINFO, cgroup, own, parent]), Some(2_000_000));
        assert_eq!(limit(&[MEMINFO, cgroup, own, parent, root]), Some(1_000_000));
        let unlimited = (own.0, "max\n");
        assert_eq!(limit(&[MEMINFO, cgroup, unlimited, parent]), Some(2_000_000));
    }

    #[test]
    fn limits_of_the_first_version_of_cgroups_count_too() {
        let cgroup = ("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:hugetlb,memory:/a/b\n0::/\n");
        let own = ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        let root = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n");
        assert_eq!(limit(&[MEMINFO, cgroup, own]), Some(4 << 20));
        assert_eq!(limit(&[MEMINFO, cgroup, own, root]), Some(1_000_000));
    }

    #[test]
    fn without_a_limit_the_memory_of_the_machine_counts() {
        assert_eq!(limit(&[MEMINFO]), Some(4 << 20));
        assert_eq!(limit(&[MEMINFO, ("/proc/self/cgroup", "0::/\n")]), Some(4 << 20));
        assert_eq!(limit(&[]), None);
    }

    #[test]
    fn resident_memory_grows_with_what_is_written() {
        let before = resident_bytes().unwrap();
        let written = vec![1_u8; 64 << 20];
        assert!(resident_bytes().unwrap() >= before + (32 << 20), "{} bytes", written.len());
        assert!(available_bytes().unwrap() > before);
    }
}
