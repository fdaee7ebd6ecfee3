//! `antiphon store check`: reads everything, and reports what is damaged.

use std::time::{Duration, Instant};

use antiphon_config::StoreConfig;
use antiphon_store::{Damage, VerifyProgress, VerifyReport, VerifyStep};
use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::block_on;
use crate::output::{print_line, print_note};

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

pub fn run(config: &StoreConfig, json: bool) -> anyhow::Result<()> {
    let url = config.target().context("store.url")?;
    let mut shown = Instant::now();
    let mut progress = |progress: VerifyProgress| {
        if shown.elapsed() >= PROGRESS_INTERVAL || progress.step == VerifyStep::Pages {
            shown = Instant::now();
            show(progress);
        }
    };
    let report = block_on(async { Ok(antiphon_store::verify(&url, &mut progress).await?) })?;
    if json {
        print_line!("{}", to_json(&report))?;
    } else {
        print_text(&report)?;
    }
    if !report.is_intact() {
        bail!("{url} is damaged in {} place(s)", report.damages);
    }
    Ok(())
}

fn show(VerifyProgress { step, rows, of_rows }: VerifyProgress) {
    let step = match step {
        VerifyStep::Pages => return print_note!("checking the database's own structure"),
        VerifyStep::Responses => "responses",
        VerifyStep::Items => "items",
        VerifyStep::ConversationItems => "items of conversations",
    };
    let percent = (rows * 100).checked_div(of_rows).unwrap_or(100).min(100);
    print_note!("checking {step}: {rows} of {of_rows} rows ({percent} %)");
}

fn to_json(report: &VerifyReport) -> Value {
    let damage = |Damage { of, problem }: &Damage| {
        let (project, response) = of.as_ref().map(|(project, id)| (project.as_str(), id.to_string())).unzip();
        json!({ "project": project, "response": response, "problem": problem })
    };
    json!({
        "intact": report.is_intact(),
        "responses": report.responses,
        "without_checksum": report.without_checksum,
        "items": report.items,
        "conversation_items": report.conversation_items,
        "damages": report.damages,
        "damaged": report.listed.iter().map(damage).collect::<Vec<_>>(),
    })
}

fn print_text(report: &VerifyReport) -> anyhow::Result<()> {
    for Damage { of, problem } in &report.listed {
        match of {
            Some((project, response)) => print_line!("{response} of project {project}: {problem}")?,
            None => print_line!("{problem}")?,
        }
    }
    let VerifyReport { responses, without_checksum, items, conversation_items, .. } = report;
    print_line!(
        "{responses} responses ({without_checksum} without a checksum), {items} indexed items, {conversation_items} items of \
         conversations"
    )?;
    if report.is_intact() {
        print_line!("Nothing is damaged.")?;
    }
    Ok(())
}
