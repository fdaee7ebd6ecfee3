//! `antiphon store copy`: copies everything from one database into another.

use std::time::{Duration, Instant};

use antiphon_config::{Environment, StoreConfig};
use antiphon_store::{CopyProgress, CopyReport, CopyStep, StoreError, StoreUrl, TableReport};
use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::output::{print_line, print_note};
use crate::{block_on, exit_with_usage_error};

/// The prefix of a URL that is in an environment variable.
const ENV_PREFIX: &str = "env:";
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

pub fn run(config: &StoreConfig, from: &str, to: &str, json: bool) -> anyhow::Result<()> {
    let (from, to) = (parse(config, "--from", from)?, parse(config, "--to", to)?);
    let mut shown = Instant::now();
    let mut progress = |progress: CopyProgress| {
        if shown.elapsed() >= PROGRESS_INTERVAL {
            shown = Instant::now();
            print_progress(&progress);
        }
    };
    let report =
        block_on(async { antiphon_store::copy(&from, &to, &mut progress).await.map_err(add_advice) })?;
    if json {
        print_line!("{}", to_json(&report))?;
    } else {
        print_table(&from, &to, &report)?;
    }
    if !report.is_verified() {
        bail!("{}", describe_differences(&report));
    }
    Ok(())
}

fn add_advice(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Unavailable(_) => {
            anyhow::Error::new(error).context("the copy is incomplete; run it again to continue")
        }
        error => error.into(),
    }
}

/// Which tables differ, how, and what to do about it.
fn describe_differences(report: &CopyReport) -> String {
    let differing: Vec<&TableReport> = report.tables.iter().filter(|table| !table.is_verified()).collect();
    let descriptions: Vec<String> = differing
        .iter()
        .map(|TableReport { table, missing, differing, extra, source, target, .. }| {
            format!(
                "{table} (source {} rows, target {}: {missing} missing, {differing} differing, {extra} extra)",
                source.rows, target.rows
            )
        })
        .collect();
    let is_behind = differing.iter().all(|table| table.differing == 0 && table.extra == 0);
    let advice = if is_behind {
        "Rows were added to the source during the copy: stop the gateway that writes to it and run the copy again"
    } else {
        "Rows of the source were changed or removed after they were copied, or the target was not empty. Nothing was \
         overwritten. Stop everything that writes to either database, empty the target and copy again"
    };
    format!("the databases differ in {}. {advice}", descriptions.join(", "))
}

fn parse(config: &StoreConfig, flag: &'static str, text: &str) -> anyhow::Result<StoreUrl> {
    let environment = Environment::from_process();
    let text = match text.strip_prefix(ENV_PREFIX) {
        Some(name) => environment
            .get(name)
            .with_context(|| format!("{flag}: environment variable {name} is not set or empty"))?,
        None => text,
    };
    Ok(config
        .parse_url(text)
        .unwrap_or_else(|invalid| exit_with_usage_error(format_args!("{flag}: {invalid}"))))
}

pub(super) fn print_progress(progress: &CopyProgress) {
    let CopyProgress { table, step, rows, of_rows, copied_bytes } = progress;
    let step = match step {
        CopyStep::Copying => "copying",
        CopyStep::Verifying => "verifying",
    };
    let percent = (rows * 100).checked_div(*of_rows).unwrap_or(100).min(100);
    print_note!("{step} {table}: {rows} of {of_rows} rows ({percent} %), {} MiB copied", copied_bytes >> 20);
}

fn to_json(report: &CopyReport) -> Value {
    let table = |table: &TableReport| {
        json!({
            "table": table.table,
            "copied": table.copied,
            "copied_bytes": table.copied_bytes,
            "present": table.present,
            "missing": table.missing,
            "differing": table.differing,
            "extra": table.extra,
            "source": { "rows": table.source.rows, "sha256": table.source.digest },
            "target": { "rows": table.target.rows, "sha256": table.target.digest },
        })
    };
    json!({ "verified": report.is_verified(), "tables": report.tables.iter().map(table).collect::<Vec<_>>() })
}

fn print_table(from: &StoreUrl, to: &StoreUrl, report: &CopyReport) -> anyhow::Result<()> {
    print_line!("{from} -> {to}")?;
    print_line!(
        "{:<12} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}  digests",
        "table",
        "copied",
        "present",
        "missing",
        "differing",
        "extra",
        "source",
        "target"
    )?;
    for TableReport { table, copied, present, missing, differing, extra, source, target, .. } in
        &report.tables
    {
        print_line!(
            "{table:<12} {copied:>12} {present:>12} {missing:>12} {differing:>12} {extra:>12} {:>12} {:>12}  {}",
            source.rows,
            target.rows,
            if source == target { &source.digest[..16] } else { "differ" },
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use antiphon_store::Digested;

    use super::*;

    fn report(missing: u64, differing: u64, extra: u64) -> CopyReport {
        let digested = |rows: u64| Digested { rows, digest: rows.to_string() };
        let same = TableReport { table: "items", ..TableReport::default() };
        let other = TableReport {
            table: "responses",
            missing,
            differing,
            extra,
            source: digested(1_000),
            target: digested(999),
            ..TableReport::default()
        };
        CopyReport { tables: vec![other, same] }
    }

    #[test]
    fn a_difference_is_reported_with_its_table_counts_and_advice() {
        let behind = describe_differences(&report(1, 0, 0));
        assert!(behind.contains("responses (source 1000 rows, target 999: 1 missing"), "{behind}");
        assert!(behind.contains("run the copy again") && !behind.contains("empty the target"), "{behind}");
        assert!(!behind.contains("items"), "{behind}");
        for others in [report(1, 1, 0), report(1, 0, 1)] {
            let text = describe_differences(&others);
            assert!(text.contains("empty the target") && text.contains("Nothing was overwritten"), "{text}");
        }
    }
}
