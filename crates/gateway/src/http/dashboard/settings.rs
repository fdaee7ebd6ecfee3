//! Settings: tokens and sessions, and the audit log.

use std::sync::Arc;

use antiphon_access::admin::Role;
use antiphon_access::sessions::Session;
use antiphon_operations::{AuditEntry, AuditSearch, Operations, SessionView, TokenView};
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use http::{Extensions, HeaderMap};
use maud::{Markup, html};
use serde::Deserialize;

use super::configuration::{configuration, store};
use super::gate::{Change, Empty, Query, SignedIn};
use super::page::{Page, Problem, Screen};
use super::pieces::{Tone, badge, button, empty, is_admin, next_page, none, notice, secret, time};
use super::proxy_sign_in::after_sign_out;
use crate::http::path_segment::PathSegment;

const RECENT_ENTRIES: u32 = 8;
const ENTRIES_PER_PAGE: u32 = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    after: Option<String>,
}

pub async fn show(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
) -> Result<Response, Problem> {
    let tokens = operations.list_admin_tokens().await?.tokens;
    let sessions = operations.list_sessions().await?.sessions;
    let audit = operations.list_audit(newest(RECENT_ENTRIES, None)).await?;
    let content = html! {
        div .columns {
            section .card { h2 { "Admin tokens" } (tokens_table(&session, &tokens)) }
            section .card { h2 { "About" } (about()) }
        }
        div .columns {
            section .card { h2 { "Configuration" } (configuration(&operations.config())) }
            section .card { h2 { "Store" } (store(&operations.store_report().await?)) }
        }
        section .card { h2 { "Sessions" } (sessions_table(&session, &sessions)) }
        section .card {
            div .card-head { h2 { "Audit log" } a href="/settings/audit" { "All changes" } }
            @if audit.entries.is_empty() { p .muted { "Nothing has been changed yet." } } @else { (audit_table(&audit.entries)) }
        }
    };
    let page =
        Page { session: &session, screen: Screen::Settings, title: "Settings", actions: html! {}, content };
    Ok(page.into_response())
}

fn about() -> Markup {
    html! {
        dl .facts {
            dt { "Version" } dd { "Antiphon " (env!("CARGO_PKG_VERSION")) }
            dt { "Admin API" } dd { a href="/api/openapi.json" { "OpenAPI document" } }
            dt { "Metrics" } dd { a href="/metrics" { "/metrics" } }
        }
    }
}

fn tokens_table(session: &Session, tokens: &[TokenView]) -> Markup {
    let token_of = |role: Role| tokens.iter().find(|token| token.role == role);
    let row = |role: Role, about: &str| {
        html! {
            tr {
                th scope="row" { (role.as_str()) div .hint { (about) } }
                td { @if let Some(token) = token_of(role) { (time(&token.created_at)) } @else { (none()) } }
            }
        }
    };
    let (label, warning) = match token_of(Role::Viewer) {
        None => ("Create viewer token", None),
        Some(_) => (
            "Replace viewer token",
            Some("Replace the viewer token? The old one stops working, and its sessions end."),
        ),
    };
    html! {
        table {
            thead { tr { th scope="col" { "Role" } th scope="col" { "Created" } } }
            tbody {
                (row(Role::Admin, "reads and changes everything"))
                (row(Role::Viewer, "reads, except what responses contain"))
            }
        }
        @if is_admin(session) {
            div .buttons { (button("/settings/tokens/viewer", label, warning)) }
        }
        p .hint { "To replace the admin token, run " code { "antiphon admin token" } "." }
    }
}

fn sessions_table(session: &Session, sessions: &[SessionView]) -> Markup {
    let own = session.id.to_string();
    html! {
        div .scroll tabindex="0" role="region" aria-label="Sessions" {
            table {
                thead {
                    tr {
                        th scope="col" { "Opened" } th scope="col" { "Operator" } th scope="col" { "Role" } th scope="col" { "From" }
                        th scope="col" { "Ends" }
                        @if is_admin(session) { th scope="col" { "Actions" } }
                    }
                }
                tbody {
                    @for one in sessions {
                        tr {
                            th scope="row" {
                                (time(&one.created_at)) @if one.id == own { " " (badge(Tone::Good, "this one")) }
                            }
                            td { @if let Some(operator) = &one.operator { (operator) } @else { (none()) } }
                            td { (one.role.as_str()) }
                            td .mono { @if let Some(address) = &one.address { (address) } @else { (none()) } }
                            td { (time(&one.expires_at)) }
                            @if is_admin(session) {
                                td { (button(&format!("/settings/sessions/{}/end", one.id), "End", None)) }
                            }
                        }
                    }
                }
            }
        }
        @if is_admin(session) {
            div .buttons {
                (button("/settings/sessions/end-all", "Sign out everywhere", Some("End all sessions, this one too?")))
            }
        }
    }
}

pub async fn audit(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    let list = operations.list_audit(newest(ENTRIES_PER_PAGE, query.after)).await?;
    let next = list.entries.last().filter(|_| list.has_more);
    let content = html! {
        @if list.entries.is_empty() {
            (empty("Nothing here", &html! { p { "Every change of a key, an account, a token or a session is kept here." } }))
        } @else {
            section .card.flush { (audit_table(&list.entries)) }
            @if let Some(last) = next { (next_page(&format!("/settings/audit?after={}", last.id))) }
        }
    };
    let actions = html! { a .button href="/settings" { "Settings" } };
    Ok(Page { session: &session, screen: Screen::Settings, title: "Audit log", actions, content }
        .into_response())
}

fn newest(limit: u32, after: Option<String>) -> AuditSearch {
    AuditSearch { limit: Some(limit), after, ..AuditSearch::default() }
}

fn audit_table(entries: &[AuditEntry]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Audit log" {
            table {
                thead {
                    tr {
                        th scope="col" { "Time" } th scope="col" { "Change" } th scope="col" { "Of" }
                        th scope="col" { "By" } th scope="col" { "More" }
                    }
                }
                tbody {
                    @for entry in entries {
                        tr {
                            td { (time(&entry.at)) }
                            td { (entry.action) }
                            td .mono { (entry.target) }
                            td {
                                @if let Some(operator) = &entry.operator { div { (operator) } }
                                span .mono { (entry.actor) }
                            }
                            td .detail {
                                @for (name, value) in &entry.detail {
                                    @if !value.is_null() {
                                        span { (name) ": " @if let Some(text) = value.as_str() { (text) } @else { (value) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub async fn replace_viewer_token(
    State(operations): State<Arc<Operations>>,
    change: Change<Empty>,
) -> Result<Response, Problem> {
    let issued = operations.replace_admin_token(Role::Viewer, change.actor()).await?;
    let content = html! {
        (notice(&html! {
            p { strong { "Copy the viewer token now." } " It is not shown again." }
            (secret("token", &issued.token))
        }))
        p { a .button href="/settings" { "Done" } }
    };
    let (session, actions) = (&change.session, html! {});
    Ok(Page { session, screen: Screen::Settings, title: "Viewer token", actions, content }.into_response())
}

pub async fn end_session(
    State(operations): State<Arc<Operations>>,
    PathSegment(id): PathSegment,
    change: Change<Empty>,
) -> Result<Redirect, Problem> {
    operations.end_session(&id, change.actor()).await?;
    Ok(Redirect::to("/settings"))
}

pub async fn end_all_sessions(
    State(operations): State<Arc<Operations>>,
    headers: HeaderMap,
    extensions: Extensions,
    change: Change<Empty>,
) -> Result<Redirect, Problem> {
    operations.end_all_sessions(change.actor()).await?;
    Ok(after_sign_out(&operations, &headers, &extensions))
}
