//! What operators should look at.

use antiphon_access::keys::KeyState;
use maud::{Markup, html};

use super::numbers::percent;
use super::pieces::{Tone, badge, time};
use crate::operations::{OperationError, Operations, Page};

/// From which share of a limit a key is listed.
const NEARLY_FULL: f64 = 0.8;
/// How many keys are looked at; each costs a query.
const MAX_KEYS: u32 = 25;

/// What should be looked at, the worst first.
pub async fn attention(operations: &Operations) -> Result<Markup, OperationError> {
    let mut entries: Vec<Markup> = Vec::new();
    if !operations.store.is_available() {
        entries.push(entry(
            Tone::Bad,
            "store",
            html! { "The last write to the store failed. Turns that need it are refused." },
        ));
    }
    for account in operations.list_accounts(&Page::whole())?.accounts {
        let link = html! { a href={ "/accounts/" (account.name) } { (account.name) } };
        match (account.state, &account.cooling_until) {
            ("disabled", _) => entries.push(entry(
                Tone::Bad,
                "disabled",
                html! {
                    "Account " (link) ": its upstream refuses the credential."
                },
            )),
            ("cooling", Some(until)) => entries.push(entry(
                Tone::Warning,
                "cooling",
                html! {
                    "Account " (link) " until " (time(until))
                    @if let Some(reason) = account.cooling_reason { " (" (reason.replace('_', " ")) ")" } "."
                },
            )),
            ("paused", _) => entries.push(entry(Tone::Neutral, "paused", html! { "Account " (link) "." })),
            _ => {}
        }
    }
    entries.extend(full_keys(operations).await?);
    Ok(html! {
        section .card aria-labelledby="attention" {
            h2 #attention { "Needs attention" }
            @if entries.is_empty() { p .muted { "Nothing. All accounts are ready, and no key is near a limit." } }
            @else { ul .entries { @for entry in entries { li { (entry) } } } }
        }
    })
}

async fn full_keys(operations: &Operations) -> Result<Vec<Markup>, OperationError> {
    let mut entries = Vec::new();
    for key in operations.list_keys(&Page::new(MAX_KEYS, None)).await?.keys {
        if key.state != KeyState::Active || key.limits.is_empty() {
            continue;
        }
        for limit in operations.key_limits(&key.name).await?.limits {
            let share = limit.share();
            if share >= NEARLY_FULL {
                entries.push(entry(Tone::of_share(share), "limit", html! {
                    "Key " a href={ "/keys/" (key.name) } { (key.name) } ": " (percent(share)) " of " (limit.name) "."
                }));
            }
        }
    }
    Ok(entries)
}

fn entry(tone: Tone, word: &str, text: Markup) -> Markup {
    html! { (badge(tone, word)) span { (text) } }
}
