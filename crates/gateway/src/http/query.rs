//! Query parameters of the API. Unknown ones are ignored, and the last of several counts.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use url::form_urlencoded;

use antiphon_protocol::include::HiddenParts;

use super::error::RequestError;
use super::error_reply::ErrorReply;

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;

/// Which part of a list to show.
pub struct ListQuery {
    pub limit: usize,
    pub descending: bool,
    /// The id of the entry before the first one.
    pub after: Option<String>,
    pub hidden: HiddenParts,
}

/// How to show a response.
pub struct ResponseQuery {
    pub stream: bool,
    pub hidden: HiddenParts,
}

/// How to list models.
pub struct ModelsQuery {
    /// Codex sends its version, and asks again with the tag of the list that it has.
    pub for_codex: bool,
}

impl<S: Sync> FromRequestParts<S> for ListQuery {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorReply> {
        let mut query =
            Self { limit: DEFAULT_LIMIT, descending: true, after: None, hidden: hidden_parts(parts) };
        for (key, value) in pairs(parts) {
            match key.as_str() {
                "limit" => query.limit = parse_limit(&value)?,
                "order" => query.descending = parse_order(&value)?,
                "after" => query.after = Some(value).filter(|after| !after.is_empty()),
                _ => {}
            }
        }
        Ok(query)
    }
}

impl<S: Sync> FromRequestParts<S> for ResponseQuery {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let stream = pairs(parts).any(|(key, value)| key == "stream" && value == "true");
        Ok(Self { stream, hidden: hidden_parts(parts) })
    }
}

impl<S: Sync> FromRequestParts<S> for ModelsQuery {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self { for_codex: pairs(parts).any(|(key, _)| key == "client_version") })
    }
}

fn pairs(parts: &Parts) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned()
}

/// What a reader does not get of items: the parts that no `include` of the query names.
fn hidden_parts(parts: &Parts) -> HiddenParts {
    let pairs: Vec<_> = pairs(parts).collect();
    let names = pairs.iter().filter(|(key, _)| key == "include" || key.starts_with("include["));
    HiddenParts::unless_included(names.map(|(_, name)| name.as_str()))
}

fn parse_limit(value: &str) -> Result<usize, RequestError> {
    match value.parse() {
        Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => {
            let message =
                format!("Invalid 'limit': expected an integer from 1 to {MAX_LIMIT}, but got '{value}'.");
            Err(RequestError::InvalidQuery { param: "limit", message })
        }
    }
}

fn parse_order(value: &str) -> Result<bool, RequestError> {
    match value {
        "desc" => Ok(true),
        "asc" => Ok(false),
        _ => {
            let message = format!("Invalid 'order': expected 'asc' or 'desc', but got '{value}'.");
            Err(RequestError::InvalidQuery { param: "order", message })
        }
    }
}
