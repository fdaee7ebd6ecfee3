//! Whether the database can be reached, has the right schema and is intact, and what its clock says.

use antiphon_config::StoreConfig;
use antiphon_store::{Clock, Examination, Migrate, SqliteTarget, StoreUrl, SystemClock};
use tokio::time::timeout;

use super::{DEADLINE, Finding, compare_clocks};

pub async fn check(config: &StoreConfig) -> Vec<Finding> {
    let url = match config.target() {
        Ok(url) => url,
        Err(error) => return vec![Finding::problem("store", format!("store.url: {error}"), "")],
    };
    match &url {
        StoreUrl::Sqlite(SqliteTarget::Memory) => {
            let message = "the database is in memory: everything is lost when the gateway stops";
            return vec![Finding::warning("store", message, "set store.url")];
        }
        StoreUrl::Sqlite(SqliteTarget::File(path)) if !path.exists() => {
            let message = format!("{url} does not exist yet; a gateway creates it when it starts");
            return vec![Finding::ok("store", message)];
        }
        _ => {}
    }
    let pending = match timeout(DEADLINE, antiphon_store::pending(&url)).await {
        Err(_) => return vec![Finding::problem("store", format!("{url} did not answer in time"), "")],
        Ok(Err(error)) => return vec![Finding::problem("store", error.to_string(), "")],
        Ok(Ok(pending)) => pending,
    };
    let mut findings = vec![Finding::ok("store", format!("{url} can be reached"))];
    if !pending.is_empty() {
        findings.push(outdated(config, pending.len()));
        return findings;
    }
    findings.push(Finding::ok("store.schema", "the schema is up to date"));
    findings.extend(examine(&url).await);
    findings
}

fn outdated(config: &StoreConfig, missing: usize) -> Finding {
    let message = format!("the schema lacks {missing} migration(s)");
    let is_manual = config.options().is_ok_and(|options| options.migrate == Migrate::Manual);
    if is_manual {
        Finding::problem("store.schema", message, "run `antiphon migrate`")
    } else {
        Finding::warning("store.schema", message, "the next start applies them, or `antiphon migrate`")
    }
}

async fn examine(url: &StoreUrl) -> Vec<Finding> {
    let Ok(examined) = timeout(DEADLINE, antiphon_store::examine(url)).await else {
        let message = format!("the check did not end within {} s", DEADLINE.as_secs());
        return vec![Finding::warning("store.structure", message, "run `antiphon store check`")];
    };
    match examined {
        Err(error) => vec![Finding::problem("store.structure", error.to_string(), "")],
        Ok(Examination { server_time: Some(time), read_only, .. }) => {
            let now = SystemClock.now().unix_ms();
            let clock = compare_clocks("store.clock", "the database server", now, time.unix_ms());
            vec![writing(read_only), clock]
        }
        Ok(Examination { problems, .. }) if problems.is_empty() => {
            vec![Finding::ok("store.structure", "the structure of the file is intact")]
        }
        Ok(Examination { problems, .. }) => vec![Finding::problem(
            "store.structure",
            format!("the file is damaged: {}", problems.join("; ")),
            "stop the gateway and restore a backup; `antiphon store check` says what is damaged",
        )],
    }
}

fn writing(read_only: Option<String>) -> Finding {
    match read_only {
        None => Finding::ok("store.access", "the role may write"),
        Some(reason) => {
            Finding::problem("store.access", reason, "give store.url a server and a role that can write")
        }
    }
}
