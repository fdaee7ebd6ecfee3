//! Query parameters of lists.

use antiphon_protocol::include::HiddenParts;

use super::error::RequestError;

const MAX_LIMIT: usize = 100;

pub fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .into_owned()
        .collect::<Vec<_>>()
        .into_iter()
}

/// What a reader does not get of items: the parts that no `include` of the query names.
pub fn hidden_parts(query: Option<&str>) -> HiddenParts {
    let pairs: Vec<_> = query_pairs(query).collect();
    let names = pairs.iter().filter(|(key, _)| key == "include" || key.starts_with("include["));
    HiddenParts::unless_included(names.map(|(_, name)| name.as_str()))
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
