//! Query parameters of the API. Unknown ones are ignored, and the last of several counts.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use url::form_urlencoded;

use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_protocol::include::HiddenParts;

use super::error::RequestError;
use super::error_reply::ErrorReply;
use crate::conversations::ItemQuery;

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;

/// Which part of a list to show.
pub struct ListQuery {
    pub limit: u32,
    pub descending: bool,
    /// The id of the entry before the first one.
    pub after: Option<String>,
    pub hidden: HiddenParts,
}

/// How to show a response.
pub struct ResponseQuery {
    pub stream: bool,
    /// The number of the event before the first one of a stream.
    pub starting_after: Option<String>,
    pub hidden: HiddenParts,
}

/// Which items of a conversation to show.
pub struct ItemsQuery {
    pub page: ItemQuery,
    pub hidden: HiddenParts,
}

/// What to show of the items of a conversation.
pub struct Shown {
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
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorReply> {
        let (mut stream, mut starting_after) = (false, None);
        for (key, value) in pairs(parts) {
            match key.as_str() {
                "stream" => stream = parse_stream(&value)?,
                "starting_after" => starting_after = Some(value),
                _ => {}
            }
        }
        Ok(Self { stream, starting_after, hidden: hidden_parts(parts) })
    }
}

impl<S: Sync> FromRequestParts<S> for ItemsQuery {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorReply> {
        let mut page = ItemQuery { limit: DEFAULT_LIMIT, descending: true, after: None };
        for (key, value) in pairs(parts) {
            match key.as_str() {
                "limit" => page.limit = parse_limit(&value)?,
                "order" => page.descending = parse_order(&value)?,
                "after" => page.after = Some(value).filter(|after| !after.is_empty()),
                _ => {}
            }
        }
        Ok(Self { page, hidden: hidden_in_conversations(parts) })
    }
}

impl<S: Sync> FromRequestParts<S> for Shown {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self { hidden: hidden_in_conversations(parts) })
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

/// Sessions of the Agents SDKs list the items of a conversation and send them again as input, without asking for any part. What a
/// model cannot do without, such as the URL of an image, is therefore shown; encrypted reasoning is looked up by its id.
fn hidden_in_conversations(parts: &Parts) -> HiddenParts {
    hidden_parts(parts).only(HiddenParts::ENCRYPTED_REASONING)
}

fn parse_limit(value: &str) -> Result<u32, RequestError> {
    let invalid = |code: &'static str, message: String| {
        let (code, param) = (Some(code.into()), Some("limit".into()));
        RequestError::Invalid(ApiError { kind: ErrorKind::InvalidRequest, code, param, message })
    };
    let limit: i64 = value.parse().map_err(|_| {
        let message = format!("Invalid type for 'limit': expected an integer, but got '{value}' instead.");
        invalid("invalid_type", message)
    })?;
    match u32::try_from(limit) {
        Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ if limit < 1 => Err(invalid(
            "integer_below_min_value",
            format!(
                "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got {limit} instead."
            ),
        )),
        _ => Err(invalid(
            "integer_above_max_value",
            format!(
                "Invalid 'limit': integer above maximum value. Expected a value <= {MAX_LIMIT}, but got {limit} instead."
            ),
        )),
    }
}

/// Some clients write booleans as their language does.
fn parse_stream(value: &str) -> Result<bool, RequestError> {
    match value {
        "true" | "True" | "1" => Ok(true),
        "false" | "False" | "0" => Ok(false),
        _ => {
            let message = format!("Invalid 'stream': expected true or false, but got '{value}'.");
            Err(RequestError::InvalidQuery { param: "stream", message })
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
