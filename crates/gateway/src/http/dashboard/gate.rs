//! Who may see a page, and from where a form may come.
//!
//! A browser sends the session's cookie with every request to this origin, but with none from other sites. Forms must also
//! come from one of our own pages, which the browser says in `Sec-Fetch-Site` or `Origin`.

use std::sync::Arc;

use antiphon_access::admin::Role;
use antiphon_access::audit::Actor;
use antiphon_access::sessions::{SESSION_LIFETIME, Session};
use antiphon_operations::{OperationError, parse_query};
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts};
use axum::response::{IntoResponse, Redirect, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, header};
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::page::Problem;
use super::proxy_sign_in;
use crate::body_memory::Tenant;
use crate::http::app_state::{AppState, BodyLimits};
use crate::http::auth::client_address;
use crate::http::error::RequestError;
use crate::http::origin::FORWARDED_PROTO;

pub const LOGIN_PATH: &str = "/login";
const COOKIE: &str = "antiphon_session";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const MAX_FORM_BYTES: usize = 64 * 1024;
/// Room for a token and the address of a page, each byte of which may take three.
const MAX_OPEN_FORM_BYTES: usize = 8 * 1024;

/// An operator with a session.
pub struct SignedIn(pub Session);

/// A form that one of our own pages has sent, for an operator who is signed in.
pub struct Form<T>(pub T);

/// A form that one of our own pages has sent, for anybody.
pub struct OpenForm<T>(pub T);

/// A form by which an admin changes something.
pub struct Change<T> {
    pub session: Session,
    pub form: T,
}

/// A form without fields.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// The query of a page; unknown parameters are an error.
pub struct Query<T>(pub T);

impl FromRequestParts<AppState> for SignedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Response> {
        let session = find_session(state, &parts.headers).await;
        let operator = proxy_sign_in::operator(state, &parts.headers, &parts.extensions);
        // Behind a proxy, a browser may have the session of another operator.
        let is_theirs = |session: &Session| {
            operator.is_ok_and(|operator| operator.is_none_or(|operator| operator.owns(session)))
        };
        match session.map(|session| session.filter(is_theirs)) {
            Ok(Some(session)) => Ok(Self(session)),
            Ok(None) => Err(to_login(parts).into_response()),
            Err(error) => Err(Problem::from(error).into_response()),
        }
    }
}

impl<T: DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        Ok(Self(parse_query(parts.uri.query().unwrap_or_default()).map_err(OperationError::from)?))
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for Form<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, state: &AppState) -> Result<Self, Problem> {
        Ok(Self(read_form(request, state, Tenant::Operators, MAX_FORM_BYTES).await?))
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for OpenForm<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, state: &AppState) -> Result<Self, Problem> {
        let tenant = client_address(request.extensions()).map_or(Tenant::Operators, Tenant::of_address);
        Ok(Self(read_form(request, state, tenant, MAX_OPEN_FORM_BYTES).await?))
    }
}

async fn read_form<T: DeserializeOwned>(
    request: Request<Body>,
    state: &AppState,
    tenant: Tenant,
    max_bytes: usize,
) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    check_origin(&parts.headers)?;
    let BodyLimits { read_timeout, memory, .. } = &*state.body_limits;
    let limits = BodyLimits { max_bytes, read_timeout: *read_timeout, memory: Arc::clone(memory) };
    let body = limits.receive(&parts.headers, body, &memory.share(tenant)).await?.bytes;
    let text = str::from_utf8(&body)
        .map_err(|_| RequestError::BodyUnreadable("it is not a form in UTF-8".to_owned()))?;
    Ok(parse_query(text).map_err(OperationError::from)?)
}

impl<T: DeserializeOwned> FromRequest<AppState> for Change<T> {
    type Rejection = Response;

    async fn from_request(request: Request<Body>, state: &AppState) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        check_origin(&parts.headers).map_err(|error| Problem::from(error).into_response())?;
        let SignedIn(session) = SignedIn::from_request_parts(&mut parts, state).await?;
        if session.role != Role::Admin {
            return Err(Problem::from(OperationError::ReadOnly).into_response());
        }
        let form = Form::from_request(Request::from_parts(parts, body), state).await;
        let Form(form) = form.map_err(IntoResponse::into_response)?;
        Ok(Self { session, form })
    }
}

// === impl Change ===

impl<T> Change<T> {
    pub fn actor(&self) -> Actor<'_> {
        self.session.actor()
    }
}

/// The secret of the session in the request's cookies.
pub fn secret(headers: &HeaderMap) -> Option<&str> {
    cookie_value(COOKIE, headers)
}

/// The session in the request's cookies.
pub async fn find_session(state: &AppState, headers: &HeaderMap) -> Result<Option<Session>, OperationError> {
    match secret(headers) {
        Some(secret) => state.operations.find_session(secret).await,
        None => Ok(None),
    }
}

/// A cookie of the request.
pub fn cookie_value<'a>(name: &str, headers: &'a HeaderMap) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(other, value)| (other.trim() == name).then(|| value.trim()))
}

/// The cookie of a session, or one that removes it.
pub fn cookie(secret: Option<&str>, headers: &HeaderMap) -> String {
    let max_age = secret.map_or(0, |_| SESSION_LIFETIME.as_secs());
    let value = secret.unwrap_or_default();
    let secure = if is_https(headers) { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age}{secure}")
}

/// Whether the browser speaks HTTPS. A client that lies about this only harms itself.
pub fn is_https(headers: &HeaderMap) -> bool {
    text(headers, &FORWARDED_PROTO).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// The login page, which leads back to this one.
fn to_login(parts: &Parts) -> Redirect {
    let page = parts.uri.path_and_query().map_or("/", |page| page.as_str());
    Redirect::to(&login_path((parts.method.is_safe() && page != "/").then_some(page)))
}

/// The address of the login page, which leads on to a page.
pub fn login_path(next: Option<&str>) -> String {
    match next {
        Some(page) => {
            let next = form_urlencoded::Serializer::new(String::new()).append_pair("next", page).finish();
            format!("{LOGIN_PATH}?{next}")
        }
        None => LOGIN_PATH.to_owned(),
    }
}

/// Whether a page of another site has led the browser here. It then sends no cookie of a session.
pub fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    text(headers, &SEC_FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none"))
}

/// Whether one of our own pages has sent the request.
fn check_origin(headers: &HeaderMap) -> Result<(), RequestError> {
    let is_ours = match (text(headers, &SEC_FETCH_SITE), text(headers, &header::ORIGIN)) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => origin.split_once("://").is_some_and(|(_, origin)| {
            // A page of another site cannot set the header that a proxy sets.
            let hosts = [header::HOST, FORWARDED_HOST].map(|name| text(headers, &name));
            hosts.into_iter().flatten().any(|host| host.eq_ignore_ascii_case(origin))
        }),
        (None, None) => false,
    };
    if is_ours { Ok(()) } else { Err(RequestError::CrossSiteForm) }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(headers: &[(&'static str, &str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        headers.iter().map(pair).collect()
    }

    #[test]
    fn only_forms_of_our_own_pages_are_accepted() {
        let host = ("host", "gateway.lan:8080");
        for accepted in [
            &[host, ("sec-fetch-site", "same-origin")][..],
            &[host, ("origin", "http://gateway.lan:8080")],
            &[host, ("origin", "https://GATEWAY.lan:8080")],
            &[host, ("origin", "https://public.example"), ("x-forwarded-host", "public.example")],
        ] {
            assert!(check_origin(&headers(accepted)).is_ok(), "{accepted:?}");
        }
        for refused in [
            &[host][..],
            &[host, ("origin", "null")],
            &[host, ("origin", "http://gateway.lan:9090")],
            &[host, ("origin", "https://evil.example")],
            &[host, ("origin", "http://gateway.lan:8080"), ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
            &[host, ("sec-fetch-site", "none")],
        ] {
            assert!(check_origin(&headers(refused)).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn the_session_is_found_among_other_cookies() {
        for (cookies, found) in [
            ("antiphon_session=abc", Some("abc")),
            ("theme=dark; antiphon_session=abc; other=1", Some("abc")),
            ("xantiphon_session=abc", None),
            ("antiphon_session", None),
        ] {
            assert_eq!(secret(&headers(&[("cookie", cookies)])), found, "{cookies}");
        }
    }

    #[test]
    fn a_cookie_is_secure_behind_a_proxy_with_tls() {
        let plain = cookie(Some("abc"), &headers(&[]));
        assert_eq!(plain, "antiphon_session=abc; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200");
        let secure = cookie(None, &headers(&[("x-forwarded-proto", "https")]));
        assert_eq!(secure, "antiphon_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0; Secure");
    }
}
