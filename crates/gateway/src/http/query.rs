//! Query parameters of lists.

use antiphon_protocol::error::{ApiError, ErrorKind};

use super::error::RequestError;

const MAX_LIMIT: usize = 100;

pub fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .into_owned()
        .collect::<Vec<_>>()
        .into_iter()
}

/// The limit of a list of conversation items.
pub fn parse_item_limit(value: &str) -> Result<u32, RequestError> {
    let invalid = |code: &'static str, message: String| {
        let (code, param) = (Some(code.into()), Some("limit".into()));
        RequestError::Invalid(ApiError { kind: ErrorKind::InvalidRequest, code, param, message })
    };
    let limit: i64 = value.parse().map_err(|_| {
        let message = format!("Invalid type for 'limit': expected an integer, but got '{value}' instead.");
        invalid("invalid_type", message)
    })?;
    match u32::try_from(limit) {
        Ok(limit) if (1..=MAX_LIMIT).contains(&(limit as usize)) => Ok(limit),
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

/// Whether a list is descending.
pub fn parse_order(value: &str) -> Result<bool, RequestError> {
    match value {
        "desc" => Ok(true),
        "asc" => Ok(false),
        _ => {
            let message = format!("Invalid 'order': expected 'asc' or 'desc', but got '{value}'.");
            Err(RequestError::InvalidQuery { param: "order", message })
        }
    }
}

pub fn parse_limit(value: &str) -> Result<usize, RequestError> {
    match value.parse() {
        Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => {
            let message =
                format!("Invalid 'limit': expected an integer from 1 to {MAX_LIMIT}, but got '{value}'.");
            Err(RequestError::InvalidQuery { param: "limit", message })
        }
    }
}
