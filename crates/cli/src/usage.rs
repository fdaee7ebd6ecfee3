//! `antiphon usage`: reports usage from the store.

use antiphon_access::usage::{Group, Report, UsageParameters};
use antiphon_config::Loaded;
use antiphon_gateway::telemetry::escape_control;
use antiphon_operations::OperationError;
use clap::Args;

use super::operations::{open_for_reading, with_operations};
use super::output::{self, print_line};
use super::{exit_with_usage_error, print_json};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Start of the range: an RFC 3339 time, or a day, which starts at midnight UTC [default: 30 days before --to]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// End of the range, exclusive [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Group by these, separated by commas: key, project, account, model, and either day or hour
    #[arg(long, value_name = "NAMES")]
    group_by: Option<String>,
    /// Only this project
    #[arg(long)]
    project: Option<String>,
    /// Only this key: its name, or its id
    #[arg(long)]
    key: Option<String>,
    /// Only this account
    #[arg(long)]
    account: Option<String>,
    /// Only this model
    #[arg(long)]
    model: Option<String>,
    /// Print the JSON object of the admin API
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV
    #[arg(long)]
    csv: bool,
}

impl Arguments {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let config = &loaded.config;
        let result = with_operations(config, open_for_reading(&config.store), async |operations| {
            Ok(operations.report_all_usage(self.parameters()).await)
        })?;
        let report = match result {
            Err(OperationError::Invalid(invalid)) => exit_with_usage_error(&invalid),
            result => result?,
        };
        if self.json {
            print_json(&report)
        } else if self.csv {
            output::print(format_args!("{}", report.csv()))
        } else {
            print_table(&report)
        }
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

fn print_table(report: &Report) -> anyhow::Result<()> {
    let (from, to) = report.range();
    print_line!("{from} to {to}")?;
    if report.groups().is_empty() {
        return print_line!("no turns");
    }
    // Tenants choose the names of models.
    let escaped = |group: &Group| group.cells().map(|cell| escape_control(&cell).into_owned());
    let rows: Vec<_> = report.groups().iter().map(escaped).collect();
    let lines = || std::iter::once(Report::HEADER.map(str::to_owned)).chain(rows.iter().cloned());
    // Empty columns are left out.
    let is_shown = |column: usize| column >= 5 || rows.iter().any(|row| !row[column].is_empty());
    let width = |column: usize| lines().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let columns: Vec<(usize, usize)> = (0..Report::HEADER.len())
        .filter(|column| is_shown(*column))
        .map(|column| (column, width(column)))
        .collect();
    for row in lines() {
        let cell = |&(column, width): &(usize, usize)| match column {
            0..5 => format!("{:<width$}", row[column]),
            _ => format!("{:>width$}", row[column]),
        };
        print_line!("{}", columns.iter().map(cell).collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
