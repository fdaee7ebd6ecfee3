//! Signing in with an admin token, and signing out.

use antiphon_operations::oidc::Provider;
use antiphon_operations::{OperationError, SignInError};
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use http::{Extensions, HeaderMap, StatusCode, Uri, header};
use maud::{Markup, html};
use serde::Deserialize;

use super::assets::Asset;
use super::gate::{
    Empty, Form, OpenForm, Query, SignedIn, cookie, find_session, is_from_elsewhere, login_path,
};
use super::page::{Problem, bare_page};
use super::pieces::alert;
use super::proxy_sign_in;
use super::sign_in::{leading_page, refusal};
use crate::http::app_state::AppState;
use crate::http::auth::{client_address, count_invalid_admin_token};
use url::form_urlencoded;

/// After signing in, an operator is not sent back to a page with a longer address.
const MAX_NEXT_BYTES: usize = 2048;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginQuery {
    /// The page to show afterwards.
    pub next: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    token: String,
    next: Option<String>,
}

pub async fn form(
    State(state): State<AppState>,
    headers: HeaderMap,
    extensions: Extensions,
    Query(query): Query<LoginQuery>,
) -> Response {
    let next = query.next.as_deref();
    if let Some(proxied) = proxy_sign_in::sign_in(&state, &headers, &extensions, next).await {
        return proxied;
    }
    if is_from_elsewhere(&headers) {
        // A browser leaves out the session's cookie when another site's link leads here, and sends it once a page of ours does.
        return leading_page("Signing in", &login_path(local(next).or(Some("/"))), &[]);
    }
    // Without a page to go to, somebody may want to sign in with another token.
    if next.is_some() {
        match find_session(&state, &headers).await {
            Ok(Some(_)) => return Redirect::to(local(next).unwrap_or("/")).into_response(),
            Ok(None) => {}
            Err(error) => return Problem::from(error).into_response(),
        }
    }
    page(&state, StatusCode::OK, next, None)
}

pub async fn sign_in(
    State(state): State<AppState>,
    headers: HeaderMap,
    extensions: Extensions,
    uri: Uri,
    OpenForm(login): OpenForm<Login>,
) -> Result<Response, Problem> {
    let address = client_address(&extensions);
    match state.operations.open_session(login.token.trim(), address).await {
        Ok((_, secret)) => {
            let next = Redirect::to(local(login.next.as_deref()).unwrap_or("/"));
            Ok(([(header::SET_COOKIE, cookie(Some(secret.expose()), &headers))], next).into_response())
        }
        Err(error) => {
            if matches!(error, SignInError::InvalidToken) {
                count_invalid_admin_token(&state, address)?;
            }
            Ok(refusal(&state, &error, uri.path(), login.next.as_deref()))
        }
    }
}

pub async fn sign_out(
    State(state): State<AppState>,
    SignedIn(session): SignedIn,
    headers: HeaderMap,
    extensions: Extensions,
    _: Form<Empty>,
) -> Result<Response, Problem> {
    match state.operations.end_session(&session.id.to_string(), session.actor()).await {
        // Somebody else was faster.
        Ok(_) | Err(OperationError::SessionNotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let next = proxy_sign_in::after_sign_out(&state.operations, &headers, &extensions);
    Ok(([(header::SET_COOKIE, cookie(None, &headers))], next).into_response())
}

/// A page of this gateway; never an address elsewhere.
pub fn local(next: Option<&str>) -> Option<&str> {
    // Browsers ignore control characters: a tab between two slashes is nothing.
    let is_plain = |next: &str| next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    next.filter(|next| next.starts_with('/') && !next.starts_with("//") && is_plain(next))
}

/// The page, if its address is short enough for a form and for the store.
pub fn short(next: Option<&str>) -> Option<&str> {
    next.filter(|next| next.len() <= MAX_NEXT_BYTES)
}

pub fn page(state: &AppState, status: StatusCode, next: Option<&str>, error: Option<&str>) -> Response {
    let provider = state.operations.provider.as_deref().map(Provider::name);
    bare_page(status, "Sign in", Some(Asset::Login), &content(short(local(next)), provider, error))
}

fn content(next: Option<&str>, provider: Option<&str>, error: Option<&str>) -> Markup {
    html! {
        h1 { "Sign in" }
        @if let Some(error) = error { (alert(error)) }
        @if let Some(provider) = provider {
            a .button.primary href=(provider_path(next)) { "Sign in with " (provider) }
            p .or { "or" }
        }
        (token_form(next))
    }
}

/// The form for an admin token.
pub fn token_form(next: Option<&str>) -> Markup {
    html! {
        form .stack method="post" action="/login" {
            @if let Some(next) = next { input #next type="hidden" name="next" value=(next); }
            label .field {
                span { "Admin token" }
                input type="password" name="token" required autofocus autocomplete="current-password"
                    spellcheck="false" placeholder="apn-admin-…" aria-describedby="token-help";
            }
            p #token-help .hint {
                "Antiphon printed it on its first start in a terminal. To create a new one, run " code { "antiphon admin token" }
                ", or " code { "antiphon admin token --viewer" } " for read-only access."
            }
            button .primary type="submit" { "Sign in" }
        }
    }
}

fn provider_path(next: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(next.map(|next| ("next", next)));
    format!("/login/provider?{}", query.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_gateway_come_next() {
        for next in ["/", "/keys?after=a", "/responses/resp_1"] {
            assert_eq!(local(Some(next)), Some(next));
        }
        for next in [
            "",
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/a\r\nset-cookie: x",
            "/\t/evil.example",
            "/ü",
            "keys",
        ] {
            assert_eq!(local(Some(next)), None, "{next}");
        }
    }
}
