//! `antiphon accounts test`: whether upstreams accept the accounts' credentials, what they speak, and whether they answer.

use antiphon_config::Config;
use antiphon_gateway::telemetry::escape_control;
use antiphon_operations::{Answer, AskModel, TestedAccount};
use anyhow::bail;
use futures_util::future::try_join_all;
use serde_json::json;

use super::TestArgs;
use crate::operations::{open, open_empty, with_operations};
use crate::output::print_line;
use crate::print_json;

pub fn run(config: &Config, args: &TestArgs) -> anyhow::Result<()> {
    let all = || config.accounts.iter().map(|account| account.name.as_str()).collect();
    let names: Vec<&str> = args.name.as_deref().map_or_else(all, |name| vec![name]);
    // Accounts with `oauth` have their tokens in the store; the others need no store.
    let needs_store = config.accounts.iter().any(|account| account.oauth.is_some());
    let opening = async { if needs_store { open(&config.store).await } else { open_empty().await } };
    let ask = match &args.model {
        _ if !args.turn => AskModel::None,
        Some(model) => AskModel::Named(model),
        None => AskModel::First,
    };
    let tested = with_operations(config, opening, async |operations| {
        Ok(try_join_all(names.iter().map(|name| operations.probe_account(name, ask))).await?)
    })?;
    if args.json {
        print_json(&json!({ "accounts": tested }))?;
    } else {
        tested.iter().try_for_each(print)?;
    }
    let failed = tested.iter().filter(|tested| !tested.answers).count();
    if failed > 0 {
        bail!("{failed} of {} account(s) failed", tested.len());
    }
    Ok(())
}

fn print(tested: &TestedAccount) -> anyhow::Result<()> {
    let TestedAccount { account, error, api, server, answer, .. } = tested;
    let api = match api {
        Some("chat") => "chat completions",
        Some(_) => "Responses API",
        None => "API not known",
    };
    let server = server.map_or_else(String::new, |server| format!(" ({server})"));
    let outcome = error.clone().unwrap_or_else(|| format!("ok: {api}{server}"));
    print_line!("{account:<20} {}", escape_control(&outcome))?;
    if let Some(Answer { model, text, milliseconds, usage }) = answer {
        let seconds = *milliseconds as f64 / 1_000.0;
        let tokens = |name: &str| usage[name].as_u64().map_or("?".to_owned(), |tokens| tokens.to_string());
        let (input, output) = (tokens("input_tokens"), tokens("output_tokens"));
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text: String = text.chars().filter(|c| !c.is_control()).take(500).collect();
        let answer = format!("{model}: {text:?} ({seconds:.1} s, {input} input and {output} output tokens)");
        print_line!("{:<20} {}", "", escape_control(&answer))?;
    }
    Ok(())
}
