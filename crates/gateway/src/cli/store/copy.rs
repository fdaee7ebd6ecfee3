//! `antiphon store copy`: everything from one database into another.

use std::time::{Duration, Instant};

use antiphon_store::{CopyProgress, CopyReport, CopyStep, StoreUrl, TableReport};
use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::cli::block_on;
use crate::config::{Environment, StoreConfig};

/// A URL that is to be read from a variable.
const OF_VARIABLE: &str = "env:";
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

pub fn run(config: &StoreConfig, from: &str, to: &str, json: bool) -> anyhow::Result<()> {
    let (from, to) = (parse(config, from).context("--from")?, parse(config, to).context("--to")?);
    let mut shown = Instant::now();
    let mut progress = |progress: CopyProgress| {
        if shown.elapsed() >= PROGRESS_INTERVAL {
            shown = Instant::now();
            show(&progress);
        }
    };
    let report = block_on(async { Ok(antiphon_store::copy(&from, &to, &mut progress).await?) })?;
    if json {
        println!("{}", to_json(&report));
    } else {
        print_table(&from, &to, &report);
    }
    if !report.is_verified() {
        bail!(
            "the databases differ: rows that the source has lost or changed since they were copied, or a target that \
             held others. Nothing was overwritten. Stop what writes to either, empty the target, and copy again"
        );
    }
    Ok(())
}

fn parse(config: &StoreConfig, text: &str) -> anyhow::Result<StoreUrl> {
    let environment = Environment::of_process();
    let text = match text.strip_prefix(OF_VARIABLE) {
        Some(name) => environment.get(name).with_context(|| format!("{name} is not set, or empty"))?,
        None => text,
    };
    Ok(config.parse_url(text)?)
}

fn show(progress: &CopyProgress) {
    let CopyProgress { table, step, rows, of_rows, copied_bytes } = progress;
    let step = match step {
        CopyStep::Copying => "copying",
        CopyStep::Verifying => "verifying",
    };
    let percent = (rows * 100).checked_div(*of_rows).unwrap_or(100).min(100);
    eprintln!("{step} {table}: {rows} of {of_rows} rows ({percent} %), {} MiB copied", copied_bytes >> 20);
}

fn to_json(report: &CopyReport) -> Value {
    let table = |table: &TableReport| {
        json!({
            "table": table.table,
            "copied": table.copied,
            "copied_bytes": table.copied_bytes,
            "present": table.present,
            "differing": table.differing,
            "extra": table.extra,
            "source": { "rows": table.source.rows, "sha256": table.source.digest },
            "target": { "rows": table.target.rows, "sha256": table.target.digest },
        })
    };
    json!({ "verified": report.is_verified(), "tables": report.tables.iter().map(table).collect::<Vec<_>>() })
}

fn print_table(from: &StoreUrl, to: &StoreUrl, report: &CopyReport) {
    println!("{from} -> {to}");
    println!(
        "{:<12} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}  digests",
        "table", "copied", "present", "differing", "extra", "source", "target"
    );
    for TableReport { table, copied, present, differing, extra, source, target, .. } in &report.tables {
        println!(
            "{table:<12} {copied:>12} {present:>12} {differing:>12} {extra:>12} {:>12} {:>12}  {}",
            source.rows,
            target.rows,
            if source == target { &source.digest[..16] } else { "differ" },
        );
    }
}
