//! Keys: the list with limits as bars, one key, and what admins change.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::{KeyChanges, KeyState, KeyView, KeyWithSecret};
use antiphon_access::limits::LimitView;
use antiphon_access::sessions::Session;
use antiphon_operations::{OperationError, Operations, Page as ListPage};
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use maud::{Markup, html};
use serde::Deserialize;

use super::gate::{Change, Empty, Query, SignedIn};
use super::key_clients::key_clients;
use super::key_form::KeyForm;
use super::limits_form::{LimitsForm, settings};
use super::page::{Page, Problem, Screen};
use super::pieces::{
    Tone, alert, badge, button, empty, is_admin, limit, models, next_page, none, notice, optional_time,
    secret, time,
};
use super::series::usage_of_key;
use crate::http::path_segment::PathSegment;

/// Each key of the list costs a query for its limits.
const KEYS_PER_PAGE: u32 = 25;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    after: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateForm {
    overlap_seconds: u64,
}

struct Row {
    key: KeyView,
    limits: Vec<LimitView>,
}

pub async fn list(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let keys = operations.list_keys(&ListPage::new(KEYS_PER_PAGE, query.after)).await?;
    let next = keys.keys.last().filter(|_| keys.has_more).map(|key| format!("/keys?after={}", key.name));
    let mut rows = Vec::with_capacity(keys.keys.len());
    for key in keys.keys {
        let limits = current_limits(&operations, &key).await?;
        rows.push(Row { key, limits });
    }
    let content = html! {
        @if rows.is_empty() { (no_keys(&session)) }
        @else {
            section .card.flush { (table(&rows)) }
            @if let Some(next) = next { (next_page(&next)) }
        }
    };
    let actions = html! { @if is_admin(&session) { a .button.primary href="/keys/new" { "Create key" } } };
    Ok(Page { session: &session, screen: Screen::Keys, title: "Keys", actions, content }.into_response())
}

fn no_keys(session: &Session) -> Markup {
    let content = html! {
        p { "A key lets a client in, and says which models it may use and how much of them." }
        p { "As long as there is none, a gateway on a loopback address serves every client of this machine." }
        @if is_admin(session) { a .button.primary href="/keys/new" { "Create the first key" } }
    };
    empty("No keys yet", &content)
}

fn table(rows: &[Row]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Keys" {
            table {
                thead {
                    tr {
                        th scope="col" { "Name" } th scope="col" { "State" } th scope="col" { "Project" }
                        th scope="col" { "Models" } th scope="col" { "Limits" }
                        th scope="col" { "Last used" } th scope="col" { "Expires" }
                    }
                }
                tbody {
                    @for Row { key, limits } in rows {
                        tr {
                            th scope="row" {
                                a href={ "/keys/" (key.name) } { (key.name) }
                                div .hint.mono { (key.prefix) "…" }
                            }
                            td { (state(key.state)) }
                            td .mono { (key.project) }
                            td { (models(&key.models)) }
                            td .limits { @if limits.is_empty() { (none()) } @for one in limits { (limit(one)) } }
                            td { (optional_time(key.last_used_at.as_deref())) }
                            td { (optional_time(key.expires_at.as_deref())) }
                        }
                    }
                }
            }
        }
    }
}

fn state(state: KeyState) -> Markup {
    let tone = match state {
        KeyState::Active => Tone::Good,
        KeyState::Expired => Tone::Warning,
        KeyState::Revoked => Tone::Neutral,
    };
    badge(tone, state.as_str())
}

async fn current_limits(operations: &Operations, key: &KeyView) -> Result<Vec<LimitView>, Problem> {
    if key.state != KeyState::Active {
        return Ok(Vec::new());
    }
    match operations.key_limits(&key.name).await {
        Ok(list) => Ok(list.limits),
        // It is shown nevertheless.
        Err(OperationError::InvalidKeyLimits(_) | OperationError::KeyNotFound(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

pub async fn new(SignedIn(session): SignedIn) -> Result<Response, Problem> {
    if !is_admin(&session) {
        return Err(OperationError::ReadOnly.into());
    }
    Ok(new_page(&session, StatusCode::OK, &KeyForm::default(), None))
}

fn new_page(session: &Session, status: StatusCode, form: &KeyForm, error: Option<&str>) -> Response {
    let (content, actions) = (form.render_new(error), html! {});
    Page { session, screen: Screen::Keys, title: "Create key", actions, content }.reply(status)
}

pub async fn create(
    State(operations): State<Arc<Operations>>,
    change: Change<KeyForm>,
) -> Result<Response, Problem> {
    let created = match change.form.to_new_key() {
        Ok(new) => operations.create_key(new, change.actor()).await,
        Err(invalid) => Err(invalid.into()),
    };
    match created {
        Ok(created) => Ok(with_secret(&change.session, &created, "Key created")),
        Err(error @ (OperationError::Invalid(_) | OperationError::KeyExists(_))) => {
            let row = error.row();
            Ok(new_page(&change.session, row.status, &change.form, Some(&row.error.message)))
        }
        Err(error) => Err(error.into()),
    }
}

pub async fn rotate(
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    change: Change<RotateForm>,
) -> Result<Response, Problem> {
    let overlap = Duration::from_secs(change.form.overlap_seconds);
    let rotated = operations.rotate_key(&name, overlap, change.actor()).await?;
    Ok(with_secret(&change.session, &rotated, "New secret"))
}

/// The only page that ever shows a key's secret.
fn with_secret(session: &Session, issued: &KeyWithSecret, title: &str) -> Response {
    let name = &issued.key.name;
    let content = html! {
        (notice(&html! {
            p { strong { "Copy the secret of " (name) " now." } " It is not shown again." }
            (secret("secret", &issued.secret))
            @if let Some(until) = &issued.key.previous_secret_until {
                p { "The previous secret works until " (time(until)) "." }
            }
        }))
        section .card {
            h2 { "How clients use it" }
            p { "As an OpenAI API key, with the address of this gateway as base URL:" }
            pre { code { "OPENAI_API_KEY=" (issued.secret) "\nOPENAI_BASE_URL=" span data-origin { "http://HOST:PORT" } "/v1" } }
        }
        p { a .button href={ "/keys/" (name) } { "Done" } }
    };
    Page { session, screen: Screen::Keys, title, actions: html! {}, content }.into_response()
}

pub async fn change_limits(
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    change: Change<LimitsForm>,
) -> Result<Response, Problem> {
    let key = operations.key(&name).await?;
    let changed = match change.form.apply_to(settings(&key.limits)) {
        Ok(limits) => {
            let changes = KeyChanges { limits: Some(limits), ..KeyChanges::default() };
            operations.change_key(&name, changes, change.actor()).await
        }
        Err(invalid) => Err(invalid.into()),
    };
    match changed {
        Ok(_) => Ok(Redirect::to(&format!("/keys/{name}")).into_response()),
        Err(error @ OperationError::Invalid(_)) => {
            let row = error.row();
            let content = html! { (alert(&row.error.message)) (limits_card(&name, &change.form)) };
            let (session, actions) = (&change.session, html! {});
            Ok(Page { session, screen: Screen::Keys, title: &name, actions, content }.reply(row.status))
        }
        Err(error) => Err(error.into()),
    }
}

fn limits_card(name: &str, form: &LimitsForm) -> Markup {
    html! {
        form .card.stack method="post" action={ "/keys/" (name) "/limits" } autocomplete="off" {
            (form.fields())
            div .buttons { button type="submit" { "Change limits" } }
        }
    }
}

pub async fn revoke(
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    change: Change<Empty>,
) -> Result<Redirect, Problem> {
    operations.revoke_key(&name, change.actor()).await?;
    Ok(Redirect::to(&format!("/keys/{name}")))
}

pub async fn delete(
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    change: Change<Empty>,
) -> Result<Redirect, Problem> {
    operations.delete_key(&name, change.actor()).await?;
    Ok(Redirect::to("/keys"))
}

pub async fn show(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Response, Problem> {
    let key = operations.key(&name).await?;
    let limits = current_limits(&operations, &key).await?;
    let usage = usage_of_key(&operations, &key.id).await?;
    let clients = operations.key_clients(&name).await?.clients;
    let may_change = is_admin(&session);
    let content = html! {
        div .columns {
            section .card { h2 { "About" } (facts(&key)) }
            section .card {
                h2 { "Limits" }
                @if limits.is_empty() { p .muted { "This key has no limits." } }
                @for one in &limits { (limit(one)) }
            }
        }
        section .card { h2 { "Usage in the last 30 days" } (usage) }
        (key_clients(&clients))
        @if may_change && key.state == KeyState::Active { (limits_card(&key.name, &LimitsForm::of(&settings(&key.limits)))) }
        @if may_change { (changes(&key)) }
    };
    let actions = html! {
        a .button href={ "/responses?key=" (key.name) } { "Its turns" }
    };
    Ok(Page { session: &session, screen: Screen::Keys, title: &key.name, actions, content }.into_response())
}

fn facts(key: &KeyView) -> Markup {
    html! {
        dl .facts {
            dt { "State" } dd { (state(key.state)) }
            dt { "Id" } dd .mono { (key.id) }
            dt { "Secret" } dd .mono { (key.prefix) "…" }
            dt { "Project" } dd .mono { (key.project) }
            dt { "Models" } dd { (models(&key.models)) }
            dt { "Created" } dd { (time(&key.created_at)) }
            dt { "Last used" } dd { (optional_time(key.last_used_at.as_deref())) }
            dt { "Expires" } dd { (optional_time(key.expires_at.as_deref())) }
            @if let Some(at) = &key.revoked_at { dt { "Revoked" } dd { (time(at)) } }
            @if let Some(at) = &key.previous_secret_until { dt { "Previous secret works until" } dd { (time(at)) } }
        }
    }
}

fn changes(key: &KeyView) -> Markup {
    let at = |action: &str| format!("/keys/{}/{action}", key.name);
    html! {
        section .card {
            h2 { "Change" }
            @if key.state == KeyState::Active {
                div .change {
                    div { h3 { "Rotate" } p .hint { "Creates a new secret, which is shown once." } }
                    form .inline method="post" action=(at("rotate")) {
                        label { span .hidden-label { "The old secret works for" }
                            select name="overlap_seconds" aria-label="How long the old secret keeps working" {
                                option value="0" { "old secret ends now" }
                                option value="3600" { "old one works 1 more hour" }
                                option value="86400" { "old one works 1 more day" }
                                option value="604800" { "old one works 7 more days" }
                            }
                        }
                        button type="submit" { "Rotate" }
                    }
                }
                div .change {
                    div { h3 { "Revoke" } p .hint { "Ends the key for good. It stays in this list." } }
                    (button(&at("revoke"), "Revoke", Some("Revoke this key? Its clients are refused from now on.")))
                }
            }
            div .change {
                div { h3 { "Delete" } p .hint { "Removes the key and frees its name. The responses of its project stay." } }
                (button(&at("delete"), "Delete", Some("Delete this key? Its clients are refused from now on.")))
            }
        }
    }
}
