//! `antiphon usage`: who used what, from the store.

use antiphon_store::{Clock, SystemClock};
use clap::Args;
use clap::error::ErrorKind;

use super::{block_on, open_to_read};
use crate::config::Loaded;
use antiphon_access::usage::{Group, InvalidParameter, Report, UsageRequest};

#[derive(Debug, Args)]
pub struct Arguments {
    /// From when on: a time in RFC 3339, or a day, which begins at midnight UTC [default: 30 days before --to]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Up to when [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// What to tell apart: some of key, project, account, model, and day or hour, separated by commas
    #[arg(long, value_name = "NAMES")]
    group_by: Option<String>,
    /// Only this project
    #[arg(long)]
    project: Option<String>,
    /// Only this key
    #[arg(long)]
    key: Option<String>,
    /// Only this account
    #[arg(long)]
    account: Option<String>,
    /// Only this model
    #[arg(long)]
    model: Option<String>,
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV
    #[arg(long)]
    csv: bool,
}

impl Arguments {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let config = &loaded.config.store;
        let hours_kept = loaded.config.usage.hour_retention.limit();
        let request = UsageRequest::parse(self.parameters(), SystemClock.now(), hours_kept);
        let request = request.unwrap_or_else(|invalid| wrong_usage(&invalid));
        let report = block_on(async {
            let store = open_to_read(config).await?;
            let report = read_all(request, &*store).await;
            store.close().await;
            report
        })?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else if self.csv {
            print!("{}", report.csv());
        } else {
            print_table(&report);
        }
        Ok(())
    }

    fn parameters(&self) -> impl Iterator<Item = (String, String)> {
        let named = [
            ("from", &self.from),
            ("to", &self.to),
            ("group_by", &self.group_by),
            ("project", &self.project),
            ("key", &self.key),
            ("account", &self.account),
            ("model", &self.model),
        ];
        named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
    }
}

/// As for a flag that is not known.
fn wrong_usage(invalid: &InvalidParameter) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{}\n", invalid.message)).exit()
}

/// Every page.
async fn read_all(mut request: UsageRequest, store: &dyn antiphon_store::Store) -> anyhow::Result<Report> {
    let mut report = request.report(store).await?;
    while let Some(last) = report.last().cloned() {
        request.go_on_after(last);
        report.append(request.report(store).await?);
    }
    Ok(report)
}

fn print_table(report: &Report) {
    let (from, to) = report.range();
    println!("{from} to {to}");
    if report.groups().is_empty() {
        return println!("no turns");
    }
    let rows: Vec<[String; 13]> = report.groups().iter().map(Group::cells).collect();
    let all = || std::iter::once(Report::HEADER.map(str::to_owned)).chain(rows.iter().cloned());
    // A column that says nothing is left out.
    let is_shown = |column: usize| column >= 5 || rows.iter().any(|row| !row[column].is_empty());
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let columns: Vec<(usize, usize)> =
        (0..13).filter(|column| is_shown(*column)).map(|column| (column, width(column))).collect();
    for row in all() {
        let cell = |&(column, width): &(usize, usize)| match column {
            0..5 => format!("{:<width$}", row[column]),
            _ => format!("{:>width$}", row[column]),
        };
        println!("{}", columns.iter().map(cell).collect::<Vec<_>>().join("  ").trim_end());
    }
}
