//! Background turns that run, or whose response or events are kept.

use std::sync::Arc;
use std::time::Duration;

use antiphon_operations::{BackgroundParameters, BackgroundView, Operations};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::gate::{Query, SignedIn};
use super::numbers::duration;
use super::page::{Page, Problem, Screen};
use super::pieces::{Tone, badge, empty, next_page, none, time};
use super::responses::short;
use super::tabs::{Tab, tabs};

const ROWS_PER_PAGE: u32 = 50;
const PATH: &str = "/responses/background";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    /// Only turns that have not ended.
    active: bool,
    after: Option<String>,
}

pub async fn list(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    Query(ListQuery { active, after }): Query<ListQuery>,
) -> Result<Response, Problem> {
    let parameters = BackgroundParameters { active, after, limit: Some(ROWS_PER_PAGE) };
    let page = operations.list_background(&parameters).await?;
    let content = html! {
        nav .choice aria-label="Which turns" {
            a href=(PATH) aria-current=[(!active).then_some("page")] { "All" }
            a href={ (PATH) "?active=true" } aria-current=[active.then_some("page")] { "Not ended" }
        }
        @if page.turns.is_empty() { (nothing(active)) } @else { section .card.flush { (table(&page.turns)) } }
        @if let Some(last) = page.turns.last().filter(|_| page.has_more) {
            (next_page(&format!("{PATH}?active={active}&after={}", last.id)))
        }
    };
    let actions = tabs(Tab::Background);
    Ok(Page { session: &session, screen: Screen::Responses, title: "Background turns", actions, content }
        .into_response())
}

fn nothing(is_active: bool) -> Markup {
    if is_active {
        return empty(
            "Nothing runs",
            &html! { p { "No background turn is queued or in progress." } p { a .button href=(PATH) { "Show all" } } },
        );
    }
    empty(
        "No background turns",
        &html! {
            p { "Turns with " code { "background: true" } " are listed here for as long as their response or their events are kept." }
        },
    )
}

fn table(turns: &[BackgroundView]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Background turns" {
            table .dense {
                thead {
                    tr {
                        th scope="col" { "Created" } th scope="col" { "Response" } th scope="col" { "State" }
                        th scope="col" { "Project" } th scope="col" { "Key" } th .number scope="col" { "Age" }
                        th scope="col" { "Lease" } th .number scope="col" { "Runs" } th scope="col" { "Ended" }
                    }
                }
                tbody { @for turn in turns { (row(turn)) } }
            }
        }
    }
}

fn row(turn: &BackgroundView) -> Markup {
    html! {
        tr {
            td { (time(&turn.created_at)) }
            th .mono scope="row" {
                a href={ "/responses/" (turn.id) } { (short(&turn.id)) }
                @if turn.streamed { span .hint { " streamed" } }
            }
            td { (badge(tone(&turn.status), &turn.status)) }
            td { (turn.project) }
            td { @if let Some(key) = &turn.key { (key) } @else { (none()) } }
            td .number { (duration(Duration::from_secs(turn.age_seconds))) }
            td {
                @match turn.leased {
                    Some(true) => "valid",
                    Some(false) => (badge(Tone::Warning, "expired")),
                    None => (none()),
                }
            }
            td .number { (turn.attempts) }
            td { @if let Some(at) = &turn.ended_at { (time(at)) } @else { (none()) } }
        }
    }
}

fn tone(status: &str) -> Tone {
    match status {
        "completed" => Tone::Good,
        "failed" => Tone::Bad,
        "incomplete" | "cancelled" => Tone::Warning,
        _ => Tone::Neutral,
    }
}
