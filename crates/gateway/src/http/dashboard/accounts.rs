//! Accounts: their state, and pausing, resuming and testing them.

use std::sync::Arc;

use antiphon_access::sessions::Session;
use antiphon_operations::{
    Account, AccountTurns, AskModel, LogParameters, LoggedTurn, OperationError, Operations, Page as ListPage,
};
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::Value;

use super::account_turns::{self, chart_of, charts, error_rate};
use super::gate::{Change, Empty, Query, SignedIn};
use super::numbers::{compact, percent};
use super::page::{Page, Problem, Screen};
use super::pieces::{
    Tone, alert, badge, bar, button, empty, is_admin, models, none, notice, optional_time, time,
};
use super::responses::{outcome, short};
use super::time_choice::{TimeQuery, windows};
use crate::http::path_segment::PathSegment;

/// How many of its failed turns the page of an account lists.
const FAILED_TURNS: u32 = 5;

/// What the page of an account shows beside it.
struct History {
    turns: AccountTurns,
    /// The newest first.
    failed: Vec<LoggedTurn>,
}

pub async fn list(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    Query(time): Query<TimeQuery>,
) -> Result<Response, Problem> {
    let accounts = operations.list_accounts(&ListPage::whole())?.accounts;
    let turns = operations.account_turns(time.range(operations.clock.now())?).await?;
    let ready = accounts.iter().filter(|account| account.state == "ready").count();
    let content = html! {
        @if accounts.is_empty() {
            (empty("No accounts yet", &html! {
                p { "An account is a credential at an upstream. Add one to the configuration file:" }
                pre { code { "[[accounts]]\nname = \"openai\"\nbase_url = \"https://api.openai.com/v1\"\napi_key = { env = \"OPENAI_API_KEY\" }" } }
            }))
        } @else {
            p .lead { strong { (ready) } " of " (accounts.len()) " ready" }
            section .card.flush { (table(&session, &accounts, &turns)) }
            (charts(&turns))
        }
    };
    let actions = time.choice("/accounts", turns.window);
    Ok(Page { session: &session, screen: Screen::Accounts, title: "Accounts", actions, content }
        .into_response())
}

fn table(session: &Session, accounts: &[Account], turns: &AccountTurns) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Accounts" {
            table {
                thead {
                    tr {
                        th scope="col" { "Name" } th scope="col" { "State" } th scope="col" { "In flight" }
                        th scope="col" { "Quota" } th scope="col" { "Turns" } th scope="col" { "Errors" }
                        th scope="col" { "Models" } th .number scope="col" { "Priority" } th .number scope="col" { "Weight" }
                        @if is_admin(session) { th scope="col" { "Actions" } }
                    }
                }
                tbody {
                    @for account in accounts {
                        @let own = account_turns::of(turns, &account.name);
                        tr {
                            th scope="row" {
                                a href=(path(account, "")) { (account.name) }
                                div .hint { (text(account, "base_url")) }
                            }
                            td { (state(account)) }
                            td { (in_flight(account)) }
                            td { (quota(account)) }
                            td { @if let Some(own) = own { (share(own.turns, own.share)) } @else { (none()) } }
                            td { (error_rate(turns, own)) }
                            td { (models(&patterns(account))) }
                            td .number { (text(account, "priority")) }
                            td .number { (text(account, "weight")) }
                            @if is_admin(session) { td { div .buttons { (toggle(account)) } } }
                        }
                    }
                }
            }
        }
    }
}

fn state(account: &Account) -> Markup {
    let tone = match account.state {
        "ready" => Tone::Good,
        "cooling" => Tone::Warning,
        "disabled" => Tone::Bad,
        _ => Tone::Neutral,
    };
    html! {
        (badge(tone, account.state))
        @if let Some(reason) = account.cooling_reason { div .hint { (reason.replace('_', " ")) } }
        @if let Some(until) = &account.cooling_until { div .hint { "until " (time(until)) } }
    }
}

fn share(turns: u64, share: f64) -> Markup {
    html! {
        span .number { (compact(turns as f64)) span .hint { " " (percent(share)) } }
        (bar(share, Tone::Good, &format!("{} of the turns of all accounts", percent(share))))
    }
}

fn in_flight(account: &Account) -> Markup {
    let most = account.config["max_in_flight"].as_u64().filter(|most| *most > 0);
    html! {
        span .number { (account.in_flight) @if let Some(most) = most { " / " (most) } }
        @if let Some(most) = most {
            @let share = f64::from(account.in_flight) / most as f64;
            (bar(share, Tone::of_share(share), &format!("{} of {most} turns in flight", account.in_flight)))
        }
    }
}

fn quota(account: &Account) -> Markup {
    html! {
        @if account.quota.is_empty() { (none()) }
        @for window in &account.quota {
            @let percent = format!("{:.0} %", window.used * 100.0);
            div .number { (window.name) " " (percent) }
            (bar(window.used, Tone::of_share(window.used), &format!("{percent} of {} used", window.name)))
            @if let Some(resets_at) = &window.resets_at {
                div .hint { "resets " (optional_time(Some(resets_at))) }
            }
        }
    }
}

fn toggle(account: &Account) -> Markup {
    html! {
        @if account.state != "ready" { (button(&path(account, "/resume"), "Resume", None)) }
        @if account.state != "paused" { (button(&path(account, "/pause"), "Pause", None)) }
        (button(&path(account, "/test"), "Test", None))
    }
}

/// The address of an account's page or action. Names are chosen in the configuration.
fn path(account: &Account, action: &str) -> String {
    let name: String = url::form_urlencoded::byte_serialize(account.name.as_bytes()).collect();
    format!("/accounts/{}{action}", name.replace('+', "%20"))
}

fn patterns(account: &Account) -> Vec<String> {
    let models = account.config["models"].as_array().into_iter().flatten();
    models.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text(account: &Account, key: &str) -> String {
    match &account.config[key] {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub async fn show(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    Query(time): Query<TimeQuery>,
) -> Result<Response, Problem> {
    let account = operations.account(&name)?;
    let history = History::load(&operations, &name, &time).await?;
    Ok(page_of(&session, &account, &history, &html! {}))
}

fn page_of(session: &Session, account: &Account, history: &History, message: &Markup) -> Response {
    let config = serde_json::to_string_pretty(&account.config).unwrap_or_default();
    let content = html! {
        (message)
        section .card {
            h2 { "State" }
            dl .facts {
                dt { "State" } dd { (state(account)) }
                dt { "Turns in flight here" } dd { (in_flight(account)) }
                dt { "Quota" } dd { (quota(account)) }
                dt { "Upstream" } dd .mono { (text(account, "base_url")) }
                dt { "Models" } dd { (models(&patterns(account))) }
                dt { "Trust boundary" } dd {
                    @if account.config["boundary"].is_null() { (none()) } @else { (text(account, "boundary")) }
                }
            }
        }
        section .card {
            div .actions { (windows(&path(account, ""), history.turns.window)) }
            (chart_of(&history.turns, &account.name))
        }
        (failed_turns(account, &history.failed))
        section .card {
            h2 { "Configuration" }
            p .hint { "Secrets are redacted. Accounts are changed in the configuration file, which a running gateway reads again." }
            pre .scroll tabindex="0" { code { (config) } }
        }
    };
    let actions = html! {
        a .button href={ "/responses?account=" (account.name) } { "Its turns" }
        @if is_admin(session) { (toggle(account)) }
    };
    Page { session, screen: Screen::Accounts, title: &account.name, actions, content }.into_response()
}

fn failed_turns(account: &Account, turns: &[LoggedTurn]) -> Markup {
    html! {
        section .card {
            div .card-head {
                h2 { "Last failed turns" }
                a href={ "/responses?account=" (account.name) "&outcome=failed" } { "All of them" }
            }
            @if turns.is_empty() { p .muted { "None was found in the request log." } }
            @else {
                ul .entries {
                    @for turn in turns {
                        li {
                            (outcome(turn)) a .mono href={ "/responses/" (turn.id) } { (short(&turn.id)) }
                            span { (turn.model) } span .hint { (time(&turn.at)) }
                        }
                    }
                }
            }
        }
    }
}

pub async fn pause(
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    change: Change<Empty>,
) -> Result<Redirect, Problem> {
    let account = operations.pause_account(&name, change.actor()).await?;
    Ok(Redirect::to(&path(&account, "")))
}

pub async fn resume(
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    change: Change<Empty>,
) -> Result<Redirect, Problem> {
    let account = operations.resume_account(&name, change.actor()).await?;
    Ok(Redirect::to(&path(&account, "")))
}

pub async fn test(
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    change: Change<Empty>,
) -> Result<Response, Problem> {
    let tested = operations.probe_account(&name, AskModel::None).await?;
    let account = operations.account(&name)?;
    let history = History::load(&operations, &name, &TimeQuery::default()).await?;
    let message = match tested.error {
        None => notice(&html! { p { "The upstream answers." } }),
        Some(error) => alert(&format!("The upstream does not answer: {error}")),
    };
    Ok(page_of(&change.session, &account, &history, &message))
}

// === impl History ===

impl History {
    async fn load(operations: &Operations, account: &str, time: &TimeQuery) -> Result<Self, OperationError> {
        let turns = operations.account_turns(time.range(operations.clock.now())?).await?;
        let mut failed = Vec::new();
        // Before its first event, a turn that fails is refused.
        for outcome in ["failed", "refused"] {
            let parameters = LogParameters {
                account: Some(account.to_owned()),
                outcome: Some(outcome.to_owned()),
                limit: Some(FAILED_TURNS),
                ..LogParameters::default()
            };
            failed.extend(operations.list_log(parameters).await?.turns);
        }
        // Ids begin with the time.
        failed.sort_by(|a, b| b.id.cmp(&a.id));
        failed.truncate(FAILED_TURNS as usize);
        Ok(Self { turns, failed })
    }
}
