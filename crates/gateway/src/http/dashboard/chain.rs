//! The chain of a response: from the root to its newest leaf, with its branches.

use std::collections::HashMap;
use std::sync::Arc;

use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_runtime::rfc3339;
use antiphon_store::{LogRow, Status, TurnSummary};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::gate::SignedIn;
use super::items::{ItemsOf, show_items};
use super::numbers::{bytes, compact, duration};
use super::page::{Page, Problem, Screen};
use super::pieces::{Tone, alert, badge, is_admin, none, time};
use super::responses::{KeyNames, cost, outcome, short};
use super::timeline::timeline;
use crate::http::path_segment::PathSegment;
use crate::operations::{OperationError, Operations};
use antiphon_access::sessions::Session;

/// How many turns of a chain are shown, and how many that follow the one asked for.
const MAX_TURNS: u32 = 300;
const MAX_DESCENDANTS: u32 = 100;
const MAX_CHILDREN: u32 = 500;

/// What a page shows of a chain.
pub struct ChainPage<'a> {
    pub session: &'a Session,
    /// The response that was asked for.
    pub shown: ResponseId,
    /// The root first.
    turns: Vec<TurnSummary>,
    /// By parent: children that are not in this line.
    branches: HashMap<ResponseId, Vec<ResponseId>>,
    keys: KeyNames,
}

pub async fn show(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Response, Problem> {
    let Ok(response) = name.parse::<ResponseId>() else { return Ok(not_found(&session, &name)) };
    let store = &operations.store;
    let Some(project) = store.find_project(response).await.map_err(OperationError::from)? else {
        return unstored(&session, &operations, response).await;
    };
    let chain = ChainPage::read(&session, &operations, &project, response).await?;
    Ok(chain.reply(None))
}

fn not_found(session: &Session, name: &str) -> Response {
    let content = html! {
        (alert(&format!("There is no response '{name}'. It may have been purged.")))
        p { a .button href="/responses" { "Show all turns" } }
    };
    let page = Page { session, screen: Screen::Responses, title: "Not found", actions: html! {}, content };
    page.reply(http::StatusCode::NOT_FOUND)
}

/// A turn that stored nothing has only its row in the log.
async fn unstored(
    session: &Session,
    operations: &Operations,
    response: ResponseId,
) -> Result<Response, Problem> {
    let row = operations.store.find_log_row(response).await.map_err(OperationError::from)?;
    let Some(row) = row else { return Ok(not_found(session, &response.to_string())) };
    let keys = KeyNames::read(operations).await?;
    let content = html! {
        section .card {
            p .hint { "This turn stored no response: it was refused, it failed, or its client asked for " code { "store: false" } "." }
            div .card-head { (outcome(&row)) }
            (facts_of_log(&row, &keys))
            (timeline(&row))
        }
    };
    let title = short(response);
    let page = Page { session, screen: Screen::Responses, title: &title, actions: html! {}, content };
    Ok(page.into_response())
}

fn facts_of_log(row: &LogRow, keys: &KeyNames) -> Markup {
    html! {
        dl .facts {
            dt { "Response" } dd .mono { (row.response) }
            dt { "Began" } dd { (time(&rfc3339(row.at))) }
            dt { "Project" } dd .mono { (row.project.as_str()) }
            dt { "Key" } dd { @if let Some(key) = &row.key { (keys.name_of(key)) } @else { (none()) } }
            dt { "Account" } dd { @if let Some(account) = &row.account { (account) } @else { (none()) } }
            dt { "Model" } dd { (row.model) }
            dt { "Transport" } dd { (row.transport) ", status " (row.http_status) }
            dt { "Tokens" } dd {
                (compact(row.input_tokens as f64)) " input (" (compact(row.cached_tokens as f64)) " cached), "
                (compact(row.output_tokens as f64)) " output (" (compact(row.reasoning_tokens as f64)) " reasoning)"
            }
            dt { "Cost" } dd { (cost(row)) }
            @if let Some(reasoning) = &row.reasoning { dt { "Encrypted reasoning" } dd { (reasoning) } }
        }
    }
}

// === impl ChainPage ===

impl<'a> ChainPage<'a> {
    /// Reads the line from the root through this response to its newest leaf.
    pub async fn read(
        session: &'a Session,
        operations: &Operations,
        project: &ProjectId,
        shown: ResponseId,
    ) -> Result<Self, OperationError> {
        let store = &operations.store;
        let following = store.list_descendants(project, shown, MAX_DESCENDANTS).await?;
        let leaf = following.last().map_or(shown, |link| link.id);
        let mut turns = store.list_turns(project, leaf, MAX_TURNS).await?;
        turns.reverse();
        let mut branches: HashMap<ResponseId, Vec<ResponseId>> = HashMap::new();
        for (parent, child) in store.list_children(project, leaf, MAX_TURNS, MAX_CHILDREN).await? {
            if turns.iter().all(|turn| turn.id != child) {
                branches.entry(parent).or_default().push(child);
            }
        }
        Ok(Self { session, shown, turns, branches, keys: KeyNames::read(operations).await? })
    }

    /// The page; with the items of the response that was asked for, if they were read.
    pub fn reply(&self, items: Option<&ItemsOf>) -> Response {
        let sum = |value: fn(&LogRow) -> u64| {
            self.turns.iter().filter_map(|turn| turn.log.as_ref()).map(value).sum::<u64>()
        };
        let content = html! {
            p .lead {
                (self.turns.len()) " turns, " (compact(sum(|row| row.input_tokens) as f64)) " input and "
                (compact(sum(|row| row.output_tokens) as f64)) " output tokens"
                @if let Some(first) = self.turns.first() { " in project " span .mono { (first.project.as_str()) } }
                @if let Some(id) = self.turns.iter().find_map(|turn| turn.conversation.as_ref()) {
                    ", conversation " span .mono { (id) }
                }
            }
            ol .chain {
                @for turn in &self.turns { (self.turn(turn, items)) }
            }
        };
        let title = format!("Chain of {}", short(self.shown));
        Page { session: self.session, screen: Screen::Responses, title: &title, actions: html! {}, content }
            .into_response()
    }

    fn turn(&self, turn: &TurnSummary, items: Option<&ItemsOf>) -> Markup {
        let is_shown = turn.id == self.shown;
        html! {
            li .turn aria-current=[is_shown.then_some("true")] {
                details .card open[is_shown] {
                    summary {
                        span .turn-number { "#" (turn.depth) }
                        a .mono href={ "/responses/" (turn.id) } { (short(turn.id)) }
                        @if turn.is_posted { (badge(Tone::Neutral, "posted items")) }
                        @else if let Some(row) = &turn.log { (outcome(row)) }
                        @else { (badge(tone_of(turn.status), turn.status.as_str())) }
                        @if turn.deleted_at.is_some() { (badge(Tone::Warning, "deleted")) }
                        span .turn-model { (turn.model) }
                        span .hint { (time(&rfc3339(turn.created_at))) }
                        @if let Some(row) = &turn.log { span .hint.number { (duration(row.duration)) } }
                    }
                    (self.details(turn))
                    @if is_shown { (show_items(turn.id, items, is_admin(self.session))) }
                }
                @if let Some(branches) = self.branches.get(&turn.id) {
                    ul .branches aria-label={ "Other continuations of #" (turn.depth) } {
                        @for branch in branches {
                            li { a .mono href={ "/responses/" (branch) } { (short(*branch)) } span .hint { " another branch" } }
                        }
                    }
                }
            }
        }
    }

    fn details(&self, turn: &TurnSummary) -> Markup {
        html! {
            @if let Some(row) = &turn.log { (facts_of_log(row, &self.keys)) (timeline(row)) }
            @else { p .hint { "Its row in the request log has been purged." } }
            dl .facts {
                dt { "Stored" } dd { (bytes(turn.input_bytes)) " input, " (bytes(turn.output_bytes)) " output" }
                dt { "Trust boundary" } dd { (turn.boundary) }
                @if let Some(id) = &turn.upstream_id { dt { "Upstream's id" } dd .mono { (id) } }
                @if let Some(at) = turn.expires_at { dt { "Expires" } dd { (time(&rfc3339(at))) } }
                @if let Some(at) = turn.deleted_at { dt { "Deleted" } dd { (time(&rfc3339(at))) } }
            }
        }
    }
}

fn tone_of(status: Status) -> Tone {
    match status {
        Status::Completed => Tone::Good,
        Status::Failed => Tone::Bad,
        Status::Incomplete | Status::Cancelled => Tone::Neutral,
    }
}
