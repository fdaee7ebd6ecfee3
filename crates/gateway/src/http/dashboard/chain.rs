//! The chain of a response: from the root to its newest leaf, with its branches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_access::sessions::Session;
use antiphon_operations::{Chain, ChainParameters, ChainTurn, LoggedTurn, Operations, ResponseDetail};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::conversations;
use super::gate::{Change, Empty, Query, SignedIn};
use super::items::{offer_items, show_items};
use super::numbers::{bytes, compact, duration};
use super::page::{Page, Problem, Screen};
use super::pieces::{Tone, badge, earlier_page, is_admin, next_page, none, time};
use super::responses::{cost, outcome, short};
use super::timeline::timeline;
use crate::http::path_segment::PathSegment;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainQuery {
    /// The turn before the page, empty for the first page. Without it, the page is the one that the response is on.
    after: Option<String>,
}

/// What a page shows of a response and its chain.
struct ChainPage<'a> {
    session: &'a Session,
    shown: &'a ResponseDetail,
    items: &'a Markup,
    chain: &'a Chain,
}

pub async fn show(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    PathSegment(id): PathSegment,
    Query(ChainQuery { after }): Query<ChainQuery>,
) -> Result<Response, Problem> {
    let detail = operations.response(&id).await?;
    let items = offer_items(&detail.id, is_admin(&session));
    reply(&session, &operations, &detail, &items, after).await
}

/// The same page with the response's items. It is a form's target because it writes to the audit log.
pub async fn show_with_items(
    State(operations): State<Arc<Operations>>,
    PathSegment(id): PathSegment,
    change: Change<Empty>,
) -> Result<Response, Problem> {
    let mut detail = operations.response_with_bodies(&id, change.actor()).await?;
    let items = match detail.bodies.take() {
        Some(bodies) => show_items(bodies).await?,
        None => offer_items(&detail.id, is_admin(&change.session)),
    };
    reply(&change.session, &operations, &detail, &items, None).await
}

async fn reply(
    session: &Session,
    operations: &Operations,
    detail: &ResponseDetail,
    items: &Markup,
    after: Option<String>,
) -> Result<Response, Problem> {
    if detail.stored.is_none() {
        return Ok(unstored(session, detail));
    }
    let chain = match after {
        Some(_) => operations.chain(&detail.id, &ChainParameters { limit: None, after }).await?,
        None => operations.chain_around(&detail.id).await?,
    };
    Ok(ChainPage { session, shown: detail, items, chain: &chain }.reply())
}

/// A turn that stored nothing has only its row in the log.
fn unstored(session: &Session, detail: &ResponseDetail) -> Response {
    let content = html! {
        section .card {
            p .hint { "This turn has stored no response: it was refused, it failed, it still runs, or its client asked for " code { "store: false" } "." }
            @if let Some(turn) = &detail.turn {
                p { (outcome(turn)) }
                (facts_of_turn(turn)) (timeline(turn, &detail.attempts))
            }
            (background(detail))
        }
    };
    let title = short(&detail.id);
    let page = Page { session, screen: Screen::Responses, title: &title, actions: html! {}, content };
    page.into_response()
}

fn background(detail: &ResponseDetail) -> Markup {
    html! {
        @if let Some(turn) = &detail.background {
            h2 .minor { "In the background" }
            dl .facts {
                dt { "State" } dd { (badge(Tone::Neutral, &turn.status)) }
                dt { "Created" } dd { (time(&turn.created_at)) }
                dt { "Cut off at" } dd { (time(&turn.deadline)) }
                dt { "Runs so far" } dd { (turn.attempts) }
                @if let Some(is_leased) = turn.leased { dt { "Lease" } dd { @if is_leased { "valid" } @else { "expired" } } }
            }
        }
    }
}

fn facts_of_turn(turn: &LoggedTurn) -> Markup {
    html! {
        dl .facts {
            dt { "Response" } dd .mono { (turn.id) }
            dt { "Began" } dd { (time(&turn.at)) }
            dt { "Project" } dd .mono { (turn.project) }
            dt { "Key" } dd { @if let Some(key) = &turn.key { (key) } @else { (none()) } }
            dt { "Account" } dd { @if let Some(account) = &turn.account { (account) } @else { (none()) } }
            dt { "Model" } dd { (turn.model) }
            dt { "Transport" } dd { (turn.transport) ", status " (turn.http_status) }
            dt { "Tokens" } dd {
                (compact(turn.input_tokens as f64)) " input (" (compact(turn.cached_tokens as f64)) " cached), "
                (compact(turn.output_tokens as f64)) " output (" (compact(turn.reasoning_tokens as f64)) " reasoning)"
            }
            dt { "Cost" } dd { (cost(turn)) }
            @if let Some(reasoning) = &turn.reasoning { dt { "Encrypted reasoning" } dd { (reasoning) } }
        }
    }
}

// === impl ChainPage ===

impl ChainPage<'_> {
    fn reply(&self) -> Response {
        let conversation = self.shown.stored.as_ref().and_then(|stored| stored.conversation.as_ref());
        let content = html! {
            p .lead {
                (self.chain.length) " turns in project " span .mono { (self.chain.project) }
                @if let Some(id) = conversation {
                    ", conversation "
                    a .mono href=(conversations::address(id, &self.chain.project)) { (id) }
                }
            }
            @if let Some(after) = &self.chain.earlier {
                (earlier_page(&format!("/responses/{}?after={after}", self.shown.id)))
            }
            ol .chain { @for turn in &self.chain.turns { (self.turn(turn)) } }
            @if let Some(last) = self.chain.turns.last().filter(|_| self.chain.has_more) {
                (next_page(&format!("/responses/{}?after={}", self.shown.id, last.id)))
            }
        };
        let title = format!("Chain of {}", short(&self.shown.id));
        let page = Page {
            session: self.session,
            screen: Screen::Responses,
            title: &title,
            actions: html! {},
            content,
        };
        page.into_response()
    }

    fn turn(&self, turn: &ChainTurn) -> Markup {
        let is_shown = turn.id == self.shown.id;
        html! {
            li .turn aria-current=[is_shown.then_some("true")] {
                details .card open[is_shown] {
                    summary { (summary(turn)) }
                    (details(turn))
                    @if is_shown {
                        (background(self.shown))
                        (self.items)
                    } @else { p { a href={ "/responses/" (turn.id) } { "Open this turn" } } }
                }
                @if !turn.branches.is_empty() {
                    ul .branches aria-label={ "Other continuations of #" (turn.depth) } {
                        @for branch in &turn.branches {
                            li { a .mono href={ "/responses/" (branch) } { (short(branch)) } span .hint { " another branch" } }
                        }
                    }
                }
            }
        }
    }
}

pub fn summary(turn: &ChainTurn) -> Markup {
    html! {
        span .turn-number { "#" (turn.depth) }
        span .mono { (short(&turn.id)) }
        @if turn.kind == "posted" { (badge(Tone::Neutral, "posted items")) }
        @else if let Some(row) = &turn.turn { (outcome(row)) }
        @else { (badge(Tone::Neutral, &turn.status)) }
        @if turn.deleted_at.is_some() { (badge(Tone::Warning, "deleted")) }
        span .turn-model { (turn.model) }
        span .hint { (time(&turn.created_at)) }
        @if let Some(row) = &turn.turn {
            span .hint.number { (duration(Duration::from_secs_f64(row.duration_ms / 1e3))) }
        }
    }
}

pub fn details(turn: &ChainTurn) -> Markup {
    html! {
        @if let Some(row) = &turn.turn { (facts_of_turn(row)) (timeline(row, &turn.attempts)) }
        @else { p .hint { "Its row in the request log has been purged." } }
        dl .facts {
            dt { "Input items" } dd { (counts(turn.input_items.as_ref())) " " (bytes(turn.input_bytes)) }
            dt { "Output items" } dd { (counts(turn.output_items.as_ref())) " " (bytes(turn.output_bytes)) }
            dt { "Replayed before it" } dd { (bytes(turn.replay_bytes)) }
            @if let Some(at) = &turn.deleted_at { dt { "Deleted" } dd { (time(at)) } }
        }
    }
}

fn counts(items: Option<&BTreeMap<String, u64>>) -> Markup {
    html! {
        @for (kind, count) in items.into_iter().flatten() { span .tag { (kind) @if *count > 1 { " × " (count) } } " " }
    }
}
