//! The conversations of a project, and the turns of one.

use std::collections::BTreeSet;
use std::sync::Arc;

use antiphon_operations::{
    Chain, ChainTurn, Conversation, ConversationParameters, ConversationTurnParameters, OperationError,
    Operations, Page as ListPage,
};
use antiphon_protocol::id::ProjectId;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::chain::{details, summary};
use super::gate::{Query, SignedIn};
use super::numbers::bytes;
use super::page::{Page, Problem, Screen};
use super::pieces::{empty, next_page, time};
use super::tabs::{Tab, tabs};
use crate::http::path_segment::PathSegment;

const PATH: &str = "/responses/conversations";
const ROWS_PER_PAGE: u32 = 50;
/// The projects of so many keys are offered.
const MAX_KEYS: u32 = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    project: String,
    after: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnsQuery {
    project: String,
    after: Option<String>,
}

pub async fn list(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let mut projects = projects(&operations).await?;
    let project = match query.project.trim() {
        "" => projects.first().cloned().unwrap_or_default(),
        project => project.to_owned(),
    };
    projects.insert(project.clone());
    let parameters =
        ConversationParameters { project: project.clone(), limit: Some(ROWS_PER_PAGE), after: query.after };
    let page = operations.list_conversations(&parameters).await?;
    let content = html! {
        (form(&projects, &project))
        @if page.conversations.is_empty() { (nothing(&project)) }
        @else { section .card.flush { (table(&page.conversations)) } }
        @if let Some(last) = page.conversations.last().filter(|_| page.has_more) {
            (next_page(&with_query(PATH, &[("project", &project), ("after", &last.id)])))
        }
    };
    let actions = tabs(Tab::Conversations);
    Ok(Page { session: &session, screen: Screen::Responses, title: "Conversations", actions, content }
        .into_response())
}

/// Where conversations may be, in the order of their names.
async fn projects(operations: &Operations) -> Result<BTreeSet<String>, OperationError> {
    let keys = operations.list_keys(&ListPage::new(MAX_KEYS, None)).await?.keys;
    let default = ProjectId::DEFAULT.to_owned();
    Ok(keys.into_iter().map(|key| key.project).chain([default]).collect())
}

fn form(projects: &BTreeSet<String>, chosen: &str) -> Markup {
    html! {
        form .card.filters method="get" action=(PATH) role="search" aria-label="Conversations" {
            label .field {
                span { "Project" }
                select name="project" {
                    @for project in projects { option value=(project) selected[project == chosen] { (project) } }
                }
            }
            div .buttons { button .primary type="submit" { "Show" } }
        }
    }
}

fn nothing(project: &str) -> Markup {
    empty(
        "No conversations",
        &html! {
            p {
                "Clients of project " span .mono { (project) } " have created no conversation, or it has been deleted. \
                 They create one with " code { "POST /v1/conversations" } "."
            }
        },
    )
}

fn table(conversations: &[Conversation]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Conversations" {
            table .dense {
                thead {
                    tr {
                        th scope="col" { "Conversation" } th scope="col" { "Created" } th scope="col" { "Last change" }
                        th .number scope="col" { "Turns" } th .number scope="col" { "Items" } th .number scope="col" { "Size" }
                    }
                }
                tbody {
                    @for one in conversations {
                        tr {
                            th .mono scope="row" { a href=(address(&one.id, &one.project)) { (one.id) } }
                            td { (time(&one.created_at)) }
                            td { (time(&one.used_at)) }
                            td .number { (one.turns) }
                            td .number { (one.items) }
                            td .number { (bytes(one.size_bytes)) }
                        }
                    }
                }
            }
        }
    }
}

/// The page of a conversation.
pub fn address(id: &str, project: &str) -> String {
    with_query(&format!("{PATH}/{id}"), &[("project", project)])
}

fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    format!("{path}?{}", Serializer::new(String::new()).extend_pairs(parameters).finish())
}

pub async fn show(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    PathSegment(id): PathSegment,
    Query(TurnsQuery { project, after }): Query<TurnsQuery>,
) -> Result<Response, Problem> {
    let parameters = ConversationTurnParameters { project, limit: None, after };
    let chain = operations.conversation_turns(&id, &parameters).await?;
    let content = html! {
        p .lead { (chain.length) " turns in conversation " span .mono { (id) } ", project " span .mono { (chain.project) } }
        (turns(&chain))
        @if let Some(last) = chain.turns.last().filter(|_| chain.has_more) {
            (next_page(&with_query(
                &format!("{PATH}/{id}"),
                &[("project", &chain.project), ("after", &last.id)],
            )))
        }
    };
    let actions = tabs(Tab::Conversations);
    Ok(Page { session: &session, screen: Screen::Responses, title: "Conversation", actions, content }
        .into_response())
}

fn turns(chain: &Chain) -> Markup {
    html! {
        @if chain.turns.is_empty() {
            (empty("No turns", &html! { p { "Nothing has been added to this conversation yet." } }))
        } @else {
            ol .chain { @for one in &chain.turns { (turn(one)) } }
        }
    }
}

fn turn(turn: &ChainTurn) -> Markup {
    html! {
        li .turn {
            details .card {
                summary { (summary(turn)) }
                (details(turn))
                // Posted items are a turn that no client can name.
                @if turn.kind == "response" { p { a href={ "/responses/" (turn.id) } { "Open this turn" } } }
            }
        }
    }
}
