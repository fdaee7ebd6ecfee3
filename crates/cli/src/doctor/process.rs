//! The limits of the process: open files and memory. They are those of this command, which a service may not share.

use antiphon_config::{Config, MemoryLimit};
use antiphon_runtime::{files, memory};

use super::Finding;

/// New turns are refused past this share of the memory.
const USABLE_PERCENT: u64 = 80;

pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![check_files(config)];
    findings.extend(check_memory(config));
    findings
}

fn check_files(config: &Config) -> Finding {
    let connections = config.limits.max_connections;
    let needed = files::needed(connections);
    match files::limit() {
        Some(limit) if files::connections(limit) < connections => Finding::warning(
            "files",
            format!(
                "{limit} files may be open, which is enough for {} of limits.max_connections = {connections}",
                files::connections(limit)
            ),
            format!(
                "raise it (`ulimit -n {needed}`, LimitNOFILE= of a service), or lower limits.max_connections"
            ),
        ),
        Some(limit) => Finding::ok("files", format!("{limit} files may be open")),
        None => Finding::ok("files", "any number of files may be open"),
    }
}

fn check_memory(config: &Config) -> Option<Finding> {
    let ceiling = match config.limits.memory {
        MemoryLimit::Auto => memory::available_bytes()?,
        MemoryLimit::Bytes(bytes) => bytes as u64,
    };
    let set_aside = (config.limits.body_memory + config.sockets.memory + config.store.cache) as u64;
    let usable = ceiling / 100 * USABLE_PERCENT;
    let (ceiling, set_aside_mib) = (ceiling >> 20, set_aside >> 20);
    Some(if set_aside > usable {
        let message = format!(
            "limits.body_memory, sockets.memory and store.cache may take {set_aside_mib} MiB together, and the process may \
             take {ceiling} MiB"
        );
        Finding::warning("memory", message, "lower them to 80 % of the memory, or give the process more")
    } else {
        Finding::ok("memory", format!("the process may take {ceiling} MiB"))
    })
}
