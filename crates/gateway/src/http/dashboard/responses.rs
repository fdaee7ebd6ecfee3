//! The request log, with filters that are part of the address.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::sessions::Session;
use antiphon_operations::{
    LogParameters, LoggedTurn, OUTCOMES, OperationError, Operations, Page as ListPage, parse_time,
};
use antiphon_runtime::{Timestamp, rfc3339};
use antiphon_store::DAY_MS;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::gate::{Query, SignedIn};
use super::numbers::{compact, dollars, duration};
use super::page::{Page, Problem, Screen};
use super::pieces::{Tone, badge, empty, none, time, time_field};
use super::tabs::{Tab, tabs};

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
    /// A time, in UTC unless it says otherwise.
    from: String,
    to: String,
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
    let keys: Vec<String> = operations
        .list_keys(&ListPage::new(MAX_KEYS, None))
        .await?
        .keys
        .into_iter()
        .map(|key| key.name)
        .collect();
    let parameters = filters.to_parameters(operations.clock.now())?;
    let page = match operations.list_log(parameters).await {
        Ok(page) => page,
        Err(OperationError::KeyNotFound(_)) => {
            return Ok(reply(
                &session,
                html! { (filters.form(&operations, &keys)) (nothing(&filters, false)) },
            ));
        }
        Err(error) => return Err(error.into()),
    };
    let content = html! {
        (filters.form(&operations, &keys))
        @if page.turns.is_empty() { (nothing(&filters, page.has_more)) }
        @else { section .card.flush { (table(&page.turns)) } }
        @if let Some(after) = &page.after {
            nav .pages aria-label="Pages" { a .button href=(filters.link_after(after)) rel="next" { "Older turns" } }
        }
    };
    Ok(reply(&session, content))
}

fn reply(session: &Session, content: Markup) -> Response {
    Page { session, screen: Screen::Responses, title: "Responses", actions: tabs(Tab::Turns), content }
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

fn table(turns: &[LoggedTurn]) -> Markup {
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
                tbody { @for turn in turns { (row(turn)) } }
            }
        }
    }
}

fn row(turn: &LoggedTurn) -> Markup {
    html! {
        tr {
            td { (time(&turn.at)) }
            th .mono scope="row" {
                a href={ "/responses/" (turn.id) } data-deep[turn.depth > 2 && turn.account.is_some()] { (short(&turn.id)) }
                @if turn.depth > 1 { span .hint title="its place in the chain" { " #" (turn.depth) } }
            }
            td { (outcome(turn)) }
            td { (turn.model) }
            td { @if let Some(key) = &turn.key { (key) } @else { (none()) } }
            td { @if let Some(account) = &turn.account { (account) } @else { (none()) } }
            td .number { (compact(turn.input_tokens as f64)) }
            td .number { (compact(turn.output_tokens as f64)) }
            td .number { (cost(turn)) }
            td .number { @if let Some(first) = turn.first_event_ms { (milliseconds(first)) } @else { (none()) } }
            td .number { (milliseconds(turn.duration_ms)) }
        }
    }
}

fn milliseconds(time: f64) -> String {
    duration(Duration::from_secs_f64(time / 1e3))
}

/// How a turn ended, and the code of its error.
pub fn outcome(turn: &LoggedTurn) -> Markup {
    let tone = match turn.outcome.as_str() {
        "completed" => Tone::Good,
        "failed" | "lost" => Tone::Bad,
        "refused" => Tone::Warning,
        _ => Tone::Neutral,
    };
    html! { (badge(tone, &turn.outcome)) @if let Some(code) = &turn.code { span .hint { " " (code) } } }
}

pub fn cost(turn: &LoggedTurn) -> Markup {
    html! { @if let Some(cost) = turn.cost_usd { (dollars(cost)) } @else { (none()) } }
}

/// The last characters, by which people tell responses apart.
pub fn short(id: &str) -> String {
    let end = id.char_indices().nth_back(7).map_or(0, |(at, _)| at);
    format!("resp_…{}", &id[end..])
}

fn encoded(text: &str) -> String {
    Serializer::new(String::new()).append_key_only(text).finish()
}

// === impl Filters ===

impl Filters {
    /// The later of both beginnings counts.
    fn to_parameters(&self, now: Timestamp) -> Result<LogParameters, OperationError> {
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let days: Option<i64> = self.days.parse().ok();
        let days_ago = days.map(|days| Timestamp::from_unix_ms(now.unix_ms() - days.clamp(1, 3650) * DAY_MS));
        let time = |param, text: &str| match text.trim() {
            "" => Ok(None),
            text => parse_time(param, text).map(Some),
        };
        let (since, until) = (time("from", &self.from)?.max(days_ago), time("to", &self.to)?);
        Ok(LogParameters {
            key: text(&self.key),
            account: text(&self.account),
            model: text(&self.model),
            outcome: text(&self.outcome),
            code: text(&self.code),
            since: since.map(rfc3339),
            until: until.map(rfc3339),
            after: text(&self.after),
            limit: Some(ROWS_PER_PAGE),
            ..LogParameters::default()
        })
    }

    fn pairs(&self) -> [(&'static str, &str); 8] {
        [
            ("key", &self.key),
            ("account", &self.account),
            ("model", &self.model),
            ("outcome", &self.outcome),
            ("code", &self.code),
            ("days", &self.days),
            ("from", &self.from),
            ("to", &self.to),
        ]
    }

    fn is_empty(&self) -> bool {
        self.pairs().iter().all(|(_, value)| value.is_empty())
    }

    fn link_after(&self, cursor: &str) -> String {
        let path = String::from("/responses?");
        let length = path.len();
        let mut query = Serializer::for_suffix(path, length);
        query.extend_pairs(self.pairs().into_iter().filter(|(_, value)| !value.is_empty()));
        query.append_pair("after", cursor);
        query.finish()
    }

    fn form(&self, operations: &Operations, keys: &[String]) -> Markup {
        let accounts: Vec<String> =
            operations.pool.view().iter().map(|view| view.account.name.clone()).collect();
        let days = [("1", "24 hours"), ("7", "7 days"), ("30", "30 days")];
        html! {
            form .card.filters method="get" action="/responses" role="search" aria-label="Turns" {
                (choice("outcome", "Outcome", &self.outcome, OUTCOMES.map(|name| (name, name))))
                (choice("key", "Key", &self.key, keys.iter().map(|name| (name.as_str(), name.as_str()))))
                (choice("account", "Account", &self.account, accounts.iter().map(|name| (name.as_str(), name.as_str()))))
                (choice("days", "Time", &self.days, days))
                (time_field("from", "From (UTC)", &self.from)) (time_field("to", "To (UTC)", &self.to))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_the_next_page_keeps_the_filters() {
        let filters = Filters { model: "a&b".into(), outcome: "failed".into(), ..Filters::default() };
        assert_eq!(filters.link_after("0f"), "/responses?model=a%26b&outcome=failed&after=0f");
    }

    #[test]
    fn responses_are_told_apart_by_their_last_characters() {
        assert_eq!(short("resp_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"), "resp_…2e3f4a5b");
        assert_eq!(short("é"), "resp_…é");
    }
}
