//! `antiphon audit`: who changed what.

use antiphon_config::Loaded;
use antiphon_gateway::telemetry::escape_control;
use antiphon_operations::{AuditEntry, AuditSearch, OperationError};
use clap::Args;

use super::operations::{open_for_reading, with_operations};
use super::output::{print_line, print_note};
use super::{exit_with_usage_error, print_json};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Only changes from this time on: an RFC 3339 time, or a day, which starts at midnight UTC
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only changes before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only changes by this actor: admin_api, command_line, gateway, or the id of a dashboard session
    #[arg(long)]
    actor: Option<String>,
    /// Only this action, such as key.created, or all whose first part it is, such as key
    #[arg(long)]
    action: Option<String>,
    /// Only changes to this object: the name of a key or an account, or what else the list shows as its target
    #[arg(long)]
    target: Option<String>,
    /// The most changes to show, the newest first
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print the JSON object of the admin API
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let config = &loaded.config;
        let found = with_operations(config, open_for_reading(&config.store), async |operations| {
            Ok(operations.list_audit(self.search()).await)
        })?;
        let list = match found {
            Err(OperationError::Invalid(invalid)) => exit_with_usage_error(&invalid),
            found => found?,
        };
        if self.json {
            return print_json(&list);
        }
        print_table(&list.entries)?;
        if list.has_more {
            print_note!("There are more: raise --limit, or narrow the search with --to.");
        }
        Ok(())
    }

    fn search(&self) -> AuditSearch {
        let Self { from, to, actor, action, target, limit, .. } = self;
        AuditSearch {
            from: from.clone(),
            to: to.clone(),
            actor: actor.clone(),
            action: action.clone(),
            target: target.clone(),
            after: None,
            limit: Some(*limit),
        }
    }
}

fn print_table(entries: &[AuditEntry]) -> anyhow::Result<()> {
    if entries.is_empty() {
        return print_line!("no changes");
    }
    print_line!("{:<24} {:<14} {:<20} {:<24} detail", "time", "actor", "action", "target")?;
    for AuditEntry { at, actor, action, target, detail, .. } in entries {
        let detail: Vec<String> = detail.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let line = format!("{at:<24} {actor:<14} {action:<20} {target:<24} {}", detail.join(" "));
        print_line!("{}", escape_control(line.trim_end()))?;
    }
    Ok(())
}
