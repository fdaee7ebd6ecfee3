//! Signing in through an authenticating proxy: the login page opens the session of the operator whom it names.

use antiphon_operations::{Operations, ProxiedOperator, SignInError};
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use http::{Extensions, HeaderMap, StatusCode, header};
use maud::html;

use super::gate::{LOGIN_PATH, cookie, find_session, is_from_elsewhere, login_path};
use super::login::{local, token_form};
use super::page::{Problem, bare_page};
use super::sign_in::{leading_page, refusal};
use crate::http::app_state::AppState;
use crate::http::auth::client_address;

/// Where to go after signing out. The login page would sign the operator in again.
pub const SIGNED_OUT_PATH: &str = "/logout";

/// The operator whom the proxy names. `None` if the request does not come from it.
pub fn operator(
    state: &AppState,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Option<ProxiedOperator>, SignInError> {
    let address = client_address(extensions);
    let operator = state.operations.proxied_operator(headers, address)?;
    // A web page can come back as one of loopback (DNS rebinding), and then sets any header.
    if operator.is_some() && address.is_some_and(|address| address.to_canonical().is_loopback()) {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let checked = state.local_only.check_host(host).map_err(SignInError::HostNotAllowed);
        checked.inspect_err(|error| tracing::warn!(%error, "sign-in failed"))?;
    }
    Ok(operator)
}

/// Signs in whom the proxy names. `None` if it names nobody.
pub async fn sign_in(
    state: &AppState,
    headers: &HeaderMap,
    extensions: &Extensions,
    next: Option<&str>,
) -> Option<Response> {
    let address = client_address(extensions);
    let next = local(next);
    let operator = match operator(state, headers, extensions) {
        Ok(operator) => operator?,
        Err(error) => return Some(refusal(state, &error, LOGIN_PATH, next)),
    };
    if is_from_elsewhere(headers) {
        // The browser has left out the session's cookie, and a page of another site signs nobody in.
        return Some(leading_page("Signing in", &login_path(next), &[]));
    }
    let session = match find_session(state, headers).await {
        Ok(session) => session,
        Err(error) => return Some(Problem::from(error).into_response()),
    };
    let page = next.unwrap_or("/");
    if session.as_ref().is_some_and(|session| operator.owns(session)) {
        return Some(Redirect::to(page).into_response());
    }
    Some(match state.operations.open_proxied_session(operator, session, address).await {
        Ok(secret) => leading_page("Signed in", page, &[cookie(Some(secret.expose()), headers)]),
        Err(error) => refusal(state, &error, LOGIN_PATH, next),
    })
}

/// Where an operator is led who has signed out.
pub fn after_sign_out(operations: &Operations, headers: &HeaderMap, extensions: &Extensions) -> Redirect {
    let operator = operations.proxied_operator(headers, client_address(extensions));
    let path = if matches!(operator, Ok(None)) { LOGIN_PATH } else { SIGNED_OUT_PATH };
    Redirect::to(path)
}

/// The page for operators whom the proxy still knows.
pub async fn signed_out(
    State(state): State<AppState>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Response {
    if let Ok(None) = state.operations.proxied_operator(&headers, client_address(&extensions)) {
        return Redirect::to(LOGIN_PATH).into_response();
    }
    let content = html! {
        h1 { "Signed out" }
        p { "The proxy in front of this dashboard still knows you. To leave this browser to somebody else, sign out there, too." }
        a .button.primary href=(LOGIN_PATH) { "Sign in again" }
        p .or { "or" }
        (token_form(None))
    };
    bare_page(StatusCode::OK, "Signed out", None, &content)
}
