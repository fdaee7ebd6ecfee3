//! The tables at the end of a run.

use std::fmt::{self, Display, Formatter};

use crate::chaos::{Happened, Report};
use crate::ledger::Tally;
use crate::violations::Promise;

const MIB: f64 = 1_048_576.0;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.engine.name())?;
        writeln!(f, "| Fault | Times | Slowest recovery |\n| --- | --- | --- |")?;
        for (fault, Happened { times, slowest_recovery }) in &self.faults {
            writeln!(f, "| {} | {times} | {:.1} s |", fault.name(), slowest_recovery.as_secs_f64())?;
        }
        writeln!(f, "\n| Door | Acknowledged | Retried | Left by the client | Cut | Refused |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for (door, tally) in &self.doors {
            let Tally { acknowledged, retried, aborted, cut, refused } = tally;
            let refused: Vec<String> =
                refused.iter().map(|(code, times)| format!("{code} {times}")).collect();
            let name = door.name();
            writeln!(
                f,
                "| {name} | {acknowledged} | {retried} | {aborted} | {cut} | {} |",
                refused.join(", ")
            )?;
        }
        writeln!(f, "\n| Violations | |\n| --- | --- |")?;
        for promise in Promise::ALL {
            writeln!(f, "| {} | {} |", promise.broken(), self.violations.count(promise))?;
        }
        let damaged = &self.damaged;
        writeln!(f, "\n{} responses read again and continued at their ends", self.verified)?;
        if damaged.copies > 0 {
            writeln!(
                f,
                "{} damaged copies, {} flipped bits: {} refused at the start, {} found by store check; {} responses right, \
                 {} errors",
                damaged.copies,
                damaged.flipped_bits,
                damaged.refused,
                damaged.found_by_check,
                damaged.right,
                damaged.errors
            )?;
        }
        let gauges: Vec<String> = self.gauges.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(f, "at the end: {}", gauges.join(", "))?;
        let (start, end) = self.files;
        let memory = self.max_memory_bytes as f64 / MIB;
        writeln!(f, "at most {memory:.0} MiB resident; {start} open files at the start, {end} at the end")
    }
}
