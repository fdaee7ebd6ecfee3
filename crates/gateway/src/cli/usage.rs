//! `antiphon usage`: who used what, from the store.

use antiphon_access::usage::{Group, Report, UsageParameters};
use clap::Args;
use clap::error::ErrorKind;

use super::operations::{open_to_read, with_operations};
use super::print_json;
use crate::config::Loaded;
use crate::operations::{InvalidRequest, OperationError};

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
    /// Print JSON, as the admin API answers
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV
    #[arg(long)]
    csv: bool,
}

impl Arguments {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let config = &loaded.config;
        let asked = with_operations(config, open_to_read(&config.store), async |operations| {
            Ok(operations.report_all_usage(self.parameters()).await)
        })?;
        let report = match asked {
            Err(OperationError::Invalid(invalid)) => wrong_usage(&invalid),
            asked => asked?,
        };
        if self.json {
            print_json(&report)?;
        } else if self.csv {
            print!("{}", report.csv());
        } else {
            print_table(&report);
        }
        Ok(())
    }

    fn parameters(&self) -> UsageParameters {
        let Self { from, to, group_by, project, key, account, model, .. } = self;
        UsageParameters {
            from: from.clone(),
            to: to.clone(),
            group_by: group_by.clone(),
            project: project.clone(),
            key: key.clone(),
            account: account.clone(),
            model: model.clone(),
            ..UsageParameters::default()
        }
    }
}

/// As for a flag that is not known.
fn wrong_usage(invalid: &InvalidRequest) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{invalid}\n")).exit()
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
