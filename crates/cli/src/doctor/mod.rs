//! `antiphon doctor`: whether a gateway would work here, and what to do if not.
//!
//! A check is a function that yields findings. Each has a deadline, and none changes anything.

mod accounts;
mod files;
mod keys;
mod listeners;
mod process;
mod store;

use std::time::Duration;

use antiphon_config::{Config, Loaded, Secrets};
use antiphon_gateway::telemetry::escape_control;
use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::output::print_line;
use super::print_json;

/// How long a check may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Replicas, reservations and leases depend on clocks that agree.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    status: Status,
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Problem,
}

impl Arguments {
    /// Checks what a gateway would load. Where that fails, the configuration is loaded again, if it can be, without the secrets
    /// that can't be read.
    pub fn run(
        &self,
        load: impl Fn(Secrets) -> anyhow::Result<Loaded>,
        is_repeatable: bool,
    ) -> anyhow::Result<()> {
        let (config, loaded) = match load(Secrets::Required) {
            Ok(loaded) => (check_config(&loaded), Some(loaded)),
            Err(error) => {
                let lenient = is_repeatable.then(|| load(Secrets::Optional).ok()).flatten();
                (Finding::problem("config", format!("{error:#}"), ""), lenient)
            }
        };
        let mut findings = vec![config];
        if let Some(loaded) = &loaded {
            findings.extend(files::check_config_file(loaded));
            findings.extend(check(&loaded.config)?);
        }
        let problems = findings.iter().filter(|finding| finding.status == Status::Problem).count();
        if self.json {
            print_json(&serde_json::json!({ "healthy": problems == 0, "findings": findings }))?;
        } else {
            findings.iter().try_for_each(Finding::print)?;
        }
        if problems > 0 {
            bail!("{problems} problem(s)");
        }
        Ok(())
    }
}

fn check_config(loaded: &Loaded) -> Finding {
    let file = loaded.source.as_ref().map_or("no file".to_owned(), |path| path.display().to_string());
    match super::config::validate(&loaded.config) {
        Ok(()) => Finding::ok("config", format!("{file}, {} account(s)", loaded.config.accounts.len())),
        Err(error) => Finding::problem("config", format!("{file}: {error:#}"), ""),
    }
}

fn check(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let mut findings = files::check(&config.store);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        findings.extend(store::check(&config.store).await);
        findings.extend(accounts::check(config).await);
        findings.extend(listeners::check(config).await);
    });
    // A check that took too long may still be reading a database.
    runtime.shutdown_background();
    findings.extend(process::check(config));
    Ok(findings)
}

/// Compares the clock of this machine with another one.
fn compare_clocks(check: &str, whose: &str, here_ms: i64, there_ms: i64) -> Finding {
    let difference = Duration::from_millis(here_ms.abs_diff(there_ms));
    let seconds = difference.as_secs();
    if difference > MAX_CLOCK_DIFFERENCE {
        let message = format!("the clock of this machine and that of {whose} differ by {seconds} s");
        Finding::problem(check, message, "synchronise the clocks, with NTP for instance")
    } else {
        Finding::ok(check, format!("agrees with {whose} to {} s", seconds.max(1)))
    }
}

// === impl Finding ===

impl Finding {
    fn ok(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self { check: check.into(), status: Status::Ok, message: message.into(), advice: None }
    }

    fn warning(check: impl Into<String>, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Warning, ..Self::problem(check, message, advice) }
    }

    fn problem(check: impl Into<String>, message: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into()).filter(|advice| !advice.is_empty());
        Self { check: check.into(), status: Status::Problem, message: message.into(), advice }
    }

    fn print(&self) -> anyhow::Result<()> {
        let Self { check, status, message, advice } = self;
        let status = match status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "problem",
        };
        // Parts of it come from upstreams.
        let lines: Vec<_> = message.lines().map(escape_control).collect();
        let message = lines.join("\n         ");
        print_line!("{status:<8} {check}: {message}")?;
        if let Some(advice) = advice {
            print_line!("         -> {advice}")?;
        }
        Ok(())
    }
}
