//! Signing in with an identity provider: to the provider, and back from it.
//!
//! The browser comes back from another site, so the cookie of a sign-in that has begun is `Lax`. The session's cookie is not sent
//! along a redirect that such a visit ends with: the last step is a page of ours that leads on by itself.

use antiphon_access::sign_ins::SIGN_IN_LIFETIME;
use antiphon_operations::oidc::ProviderError;
use antiphon_operations::{ProviderReply, SignInError};
use antiphon_runtime::whole_seconds;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, Uri, header};
use maud::html;
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::gate::{LOGIN_PATH, Query, cookie, cookie_value, is_https};
use super::login::{self, LoginQuery, local, short};
use super::page::{Problem, bare_page};
use crate::http::app_state::AppState;
use crate::http::auth::client_address;
use crate::http::error::RequestError;

const COOKIE: &str = "antiphon_sign_in";

/// What the provider sends the browser back with. Other parameters mean nothing here.
#[derive(Deserialize)]
pub struct CallbackQuery {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

/// Sends the browser to the provider.
pub async fn begin(
    State(state): State<AppState>,
    headers: HeaderMap,
    extensions: Extensions,
    uri: Uri,
    Query(query): Query<LoginQuery>,
) -> Response {
    let next = short(local(query.next.as_deref())).map(str::to_owned);
    match state.operations.begin_sign_in(next.clone(), client_address(&extensions)).await {
        Ok((url, secret)) => {
            let cookie = sign_in_cookie(Some(secret.expose_secret()), &headers);
            ([(header::SET_COOKIE, cookie)], Redirect::to(url.as_str())).into_response()
        }
        Err(error) => refusal(&state, &error, uri.path(), next.as_deref()),
    }
}

/// Takes the browser back from the provider.
pub async fn finish(
    State(state): State<AppState>,
    headers: HeaderMap,
    extensions: Extensions,
    uri: Uri,
    Query(query): Query<CallbackQuery>,
) -> Response {
    let address = client_address(&extensions);
    let code = query.code.ok_or_else(|| query.error.unwrap_or_default());
    let reply = ProviderReply { state: query.state.unwrap_or_default(), issuer: query.iss, code };
    let secret = cookie_value(COOKIE, &headers).unwrap_or_default();
    match state.operations.finish_sign_in(secret, reply, address).await {
        Ok((secret, next)) => {
            let cookies = [cookie(Some(secret.expose()), &headers), sign_in_cookie(None, &headers)];
            leading_page("Signed in", local(next.as_deref()).unwrap_or("/"), &cookies)
        }
        Err(error) => {
            if let Err(denied) = state.keys.count_failure(address) {
                return Problem::from(RequestError::from(denied)).into_response();
            }
            refusal(&state, &error, uri.path(), None)
        }
    }
}

/// A page that leads to the next one by itself.
pub fn leading_page(title: &str, next: &str, cookies: &[String]) -> Response {
    let content = html! {
        h1 { (title) }
        p { a href=(next) { "Continue" } }
    };
    let mut reply = bare_page(StatusCode::OK, title, None, &content);
    for cookie in cookies {
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            reply.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    if let Ok(refresh) = HeaderValue::try_from(format!("0;url={next}")) {
        reply.headers_mut().insert(header::REFRESH, refresh);
    }
    reply
}

/// The login page, which says why nobody is signed in.
pub fn refusal(state: &AppState, error: &SignInError, path: &str, next: Option<&str>) -> Response {
    let status = match error {
        SignInError::NotConfigured => {
            return Problem::from(RequestError::UnknownRoute(format!("GET {path}"))).into_response();
        }
        SignInError::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        SignInError::Ended | SignInError::InvalidHeader { .. } => StatusCode::BAD_REQUEST,
        SignInError::NoRole(_) | SignInError::HostNotAllowed(_) => StatusCode::FORBIDDEN,
        SignInError::Provider(ProviderError::Unavailable(_)) => StatusCode::BAD_GATEWAY,
        SignInError::Provider(ProviderError::NoRole(_)) => StatusCode::FORBIDDEN,
        SignInError::InvalidToken | SignInError::Provider(_) => StatusCode::UNAUTHORIZED,
        SignInError::Store(error) => {
            tracing::error!(%error, "store error");
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let mut reply = login::page(state, status, next, Some(&error.to_string()));
    if let SignInError::TooMany { wait, .. } = error {
        reply.headers_mut().insert(header::RETRY_AFTER, whole_seconds(*wait).into());
    }
    reply
}

/// The cookie of a sign-in that has begun, or one that removes it.
fn sign_in_cookie(secret: Option<&str>, headers: &HeaderMap) -> String {
    let max_age = secret.map_or(0, |_| SIGN_IN_LIFETIME.as_secs());
    let secure = if is_https(headers) { "; Secure" } else { "" };
    let value = secret.unwrap_or_default();
    format!("{COOKIE}={value}; Path={LOGIN_PATH}; HttpOnly; SameSite=Lax; Max-Age={max_age}{secure}")
}
