//! The request log, with filters that are part of the address.

use std::collections::HashMap;
use std::sync::Arc;

use antiphon_access::sessions::Session;
use antiphon_protocol::id::ResponseId;
use antiphon_runtime::{Timestamp, parse_rfc3339, rfc3339};
use antiphon_store::{DAY_MS, LogPosition, LogQuery, LogRow};
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use super::gate::{Query, SignedIn};
use super::numbers::{compact, dollars, duration};
use super::page::{Page, Problem, Screen};
use super::pieces::{Tone, badge, empty, none, time};
use crate::operations::{OperationError, Operations, Page as ListPage};

const ROWS_PER_PAGE: u32 = 50;
/// How many keys are offered as filters.
const MAX_KEYS: u32 = 200;

/// The fields of the filters. Empty ones count as missing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    /// A response.
    id: String,
    /// The name of a key.
    key: String,
    account: String,
    model: String,
    outcome: String,
    code: String,
    /// How many days back.
    days: String,
    /// Where the page before ended.
    after: String,
}

pub async fn list(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    Query(filters): Query<Filters>,
) -> Result<Response, Problem> {
    if !filters.id.trim().is_empty() {
        return Ok(Redirect::to(&format!("/responses/{}", encoded(filters.id.trim()))).into_response());
    }
    let keys = KeyNames::read(&operations).await?;
    let page = match filters.to_query(&keys, operations.clock.now()) {
        Some(query) => operations.store.search_log(query).await.map_err(OperationError::from)?,
        // No key has this name.
        None => antiphon_store::LogPage { rows: Vec::new(), next: None },
    };
    let content = html! {
        (filters.form(&operations, &keys))
        @if page.rows.is_empty() { (nothing(&filters, page.next.is_some())) }
        @else { section .card.flush { (table(&page.rows, &keys)) } }
        @if let Some(next) = page.next {
            nav .pages aria-label="Pages" { a .button href=(filters.link_after(next)) rel="next" { "Older turns" } }
        }
    };
    Ok(reply(&session, content))
}

fn reply(session: &Session, content: Markup) -> Response {
    Page { session, screen: Screen::Responses, title: "Responses", actions: html! {}, content }
        .into_response()
}

fn nothing(filters: &Filters, has_more: bool) -> Markup {
    if has_more {
        return empty(
            "Nothing found so far",
            &html! { p { "The search has not reached the end of the log. Go on with older turns." } },
        );
    }
    if filters.is_empty() {
        return empty(
            "No turns yet",
            &html! { p { "Every turn is listed here, also one that was refused." } },
        );
    }
    empty(
        "No turn matches",
        &html! { p { "Leave out a filter, or look further back." } p { a .button href="/responses" { "Show all turns" } } },
    )
}

fn table(rows: &[LogRow], keys: &KeyNames) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Turns" {
            table .dense {
                thead {
                    tr {
                        th scope="col" { "Time" } th scope="col" { "Response" } th scope="col" { "Outcome" }
                        th scope="col" { "Model" } th scope="col" { "Key" } th scope="col" { "Account" }
                        th .number scope="col" { "Input" } th .number scope="col" { "Output" } th .number scope="col" { "Cost" }
                        th .number scope="col" { "First event" } th .number scope="col" { "Duration" }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            td { (time(&rfc3339(row.at))) }
                            th .mono scope="row" {
                                a href={ "/responses/" (row.response) } data-deep[row.depth > 2 && row.outcome == "completed"] {
                                    (short(row.response))
                                }
                                @if row.depth > 1 { span .hint title="its place in the chain" { " #" (row.depth) } }
                            }
                            td { (outcome(row)) }
                            td { (row.model) }
                            td { @if let Some(key) = &row.key { (keys.name_of(key)) } @else { (none()) } }
                            td { @if let Some(account) = &row.account { (account) } @else { (none()) } }
                            td .number { (compact(row.input_tokens as f64)) }
                            td .number { (compact(row.output_tokens as f64)) }
                            td .number { (cost(row)) }
                            td .number { @if let Some(first) = row.first_event { (duration(first)) } @else { (none()) } }
                            td .number { (duration(row.duration)) }
                        }
                    }
                }
            }
        }
    }
}

/// How a turn ended, and the code of its error.
pub fn outcome(row: &LogRow) -> Markup {
    let tone = match &*row.outcome {
        "completed" => Tone::Good,
        "incomplete" | "cancelled" => Tone::Neutral,
        "refused" => Tone::Warning,
        _ => Tone::Bad,
    };
    html! { (badge(tone, &row.outcome)) @if let Some(code) = &row.code { span .hint { " " (code) } } }
}

pub fn cost(row: &LogRow) -> Markup {
    html! { @if let Some(nano_usd) = row.cost_nano_usd { (dollars(nano_usd as f64 / 1e9)) } @else { (none()) } }
}

/// The last characters, by which people tell responses apart.
pub fn short(response: ResponseId) -> String {
    let id = response.to_string();
    format!("resp_…{}", &id[id.len() - 8..])
}

fn encoded(text: &str) -> String {
    Serializer::new(String::new()).append_key_only(text).finish()
}

// === impl Filters ===

impl Filters {
    /// `None` if no key has the name that is asked for.
    fn to_query(&self, keys: &KeyNames, now: Timestamp) -> Option<LogQuery> {
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let days: Option<i64> = self.days.parse().ok();
        Some(LogQuery {
            project: None,
            key: match text(&self.key) {
                Some(name) => Some(keys.id_of(&name)?),
                None => None,
            },
            account: text(&self.account),
            model: text(&self.model),
            outcome: text(&self.outcome),
            code: text(&self.code),
            since: days.map(|days| Timestamp::from_unix_ms(now.unix_ms() - days.clamp(1, 3650) * DAY_MS)),
            until: None,
            after: position(&self.after),
            max_rows: ROWS_PER_PAGE,
        })
    }

    fn pairs(&self) -> [(&'static str, &str); 6] {
        [
            ("key", &self.key),
            ("account", &self.account),
            ("model", &self.model),
            ("outcome", &self.outcome),
            ("code", &self.code),
            ("days", &self.days),
        ]
    }

    fn is_empty(&self) -> bool {
        self.pairs().iter().all(|(_, value)| value.is_empty())
    }

    fn link_after(&self, position: LogPosition) -> String {
        let mut query = Serializer::new(String::from("/responses?"));
        query.extend_pairs(self.pairs().into_iter().filter(|(_, value)| !value.is_empty()));
        query.append_pair("after", &format!("{}_{}", rfc3339(position.at), position.response.as_simple()));
        query.finish()
    }

    fn form(&self, operations: &Operations, keys: &KeyNames) -> Markup {
        let accounts: Vec<String> =
            operations.pool.view().iter().map(|view| view.account.name.clone()).collect();
        let outcomes = ["completed", "incomplete", "failed", "cancelled", "refused"];
        let days = [("1", "24 hours"), ("7", "7 days"), ("30", "30 days")];
        html! {
            form .card.filters method="get" action="/responses" role="search" aria-label="Turns" {
                (choice("outcome", "Outcome", &self.outcome, outcomes.map(|name| (name, name))))
                (choice("key", "Key", &self.key, keys.names().map(|name| (name, name))))
                (choice("account", "Account", &self.account, accounts.iter().map(|name| (name.as_str(), name.as_str()))))
                (choice("days", "Time", &self.days, days))
                (text("model", "Model", &self.model)) (text("code", "Error code", &self.code))
                (text("id", "Response id", &self.id))
                div .buttons {
                    button .primary type="submit" { "Filter" }
                    @if !self.is_empty() { a .button href="/responses" { "Clear" } }
                }
            }
        }
    }
}

fn choice<'a>(
    name: &str,
    label: &str,
    chosen: &str,
    options: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Markup {
    html! {
        label .field {
            span { (label) }
            select name=(name) {
                option value="" { "any" }
                @for (value, text) in options { option value=(value) selected[value == chosen] { (text) } }
            }
        }
    }
}

fn text(name: &str, label: &str, value: &str) -> Markup {
    html! { label .field { span { (label) } input type="text" name=(name) value=(value) spellcheck="false" autocapitalize="none"; } }
}

/// Where a page ended, as a link says it.
fn position(text: &str) -> Option<LogPosition> {
    let (at, response) = text.split_once('_')?;
    Some(LogPosition { at: parse_rfc3339(at)?, response: Uuid::try_parse(response).ok()? })
}

/// The names of keys by their ids.
pub struct KeyNames(HashMap<String, String>);

// === impl KeyNames ===

impl KeyNames {
    pub async fn read(operations: &Operations) -> Result<Self, OperationError> {
        let keys = operations.list_keys(&ListPage::new(MAX_KEYS, None)).await?.keys;
        Ok(Self(keys.into_iter().map(|key| (key.id, key.name)).collect()))
    }

    /// The id, if the key is deleted.
    pub fn name_of<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.get(id).map_or(id, String::as_str)
    }

    fn id_of(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(_, known)| *known == name).map(|(id, _)| id.clone())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self.0.values().map(String::as_str).collect();
        names.sort_unstable();
        names.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_the_next_page_keeps_the_filters() {
        let filters = Filters { model: "a&b".into(), outcome: "failed".into(), ..Filters::default() };
        let end =
            LogPosition { at: Timestamp::from_unix_ms(1_795_000_000_000), response: Uuid::from_u128(7) };
        let link = filters.link_after(end);
        assert!(link.starts_with("/responses?model=a%26b&outcome=failed&after="), "{link}");
        let after = format!("{}_{}", rfc3339(end.at), end.response.as_simple());
        assert_eq!(position(&after), Some(end));
        assert_eq!(position("x"), None);
    }
}
