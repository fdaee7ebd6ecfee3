//! Parses the requests of operators. An error names the path of the invalid field.

use std::fmt::Display;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};
use url::form_urlencoded;

/// How much of a name or a reason is shown, as both may contain what the client sent.
const MAX_SHOWN_CHARS: usize = 200;

/// Why a request is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidRequest {
    pub code: &'static str,
    /// The path of the invalid field, such as `limits.budgets[0].window`.
    pub param: Option<String>,
    pub message: String,
}

/// Parses a JSON object. An empty body or null counts as an object without members.
pub fn parse_object<T: DeserializeOwned>(json: &[u8]) -> Result<T, InvalidRequest> {
    let members: Option<Map<String, Value>> = match json {
        b"" => None,
        json => serde_json::from_slice(json).map_err(|error| InvalidRequest::json(&error))?,
    };
    let object = Value::Object(members.unwrap_or_default());
    serde_path_to_error::deserialize(object).map_err(|error| InvalidRequest::field(&error))
}

/// Parses the parameters of a query.
pub fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, InvalidRequest> {
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs).map_err(|error| InvalidRequest::field(&error))
}

// === impl InvalidRequest ===

impl InvalidRequest {
    /// The field has an invalid value.
    pub fn value(param: &str, why: impl Display) -> Self {
        let message = format!("Invalid '{param}': {why}.");
        Self { code: "invalid_value", param: Some(param.to_owned()), message }
    }

    fn json(error: &serde_json::Error) -> Self {
        Self { code: "invalid_json", param: None, message: format!("Invalid body: {error}.") }
    }

    /// The kind of error is known only from serde's text.
    fn field(error: &serde_path_to_error::Error<impl Display>) -> Self {
        let (path, why) = (error.path(), error.inner().to_string());
        let (param, why) = (shown(&field_path(path, &why)), shown(&why));
        let begins_with = |words: &str| why.starts_with(words);
        let is_missing =
            begins_with("missing field") || (begins_with("invalid type: null") && is_member(path));
        let (code, message) = if is_missing {
            ("missing_required_parameter", format!("Missing required parameter: '{param}'."))
        } else if begins_with("unknown field") {
            ("unknown_parameter", format!("Unknown parameter: '{param}': {why}."))
        } else if ["invalid type", "invalid value", "invalid length"].into_iter().any(begins_with) {
            ("invalid_type", format!("Invalid type for '{param}': {why}."))
        } else {
            return Self::value(&param, why);
        };
        Self { code, param: Some(param), message }
    }
}

/// The path of the invalid field. Serde's path lacks a field that is missing or given twice.
fn field_path(path: &Path, why: &str) -> String {
    let named = |kind: &str| why.strip_prefix(kind)?.strip_suffix('`');
    let name = named("missing field `").or_else(|| named("duplicate field `"));
    match (path.to_string(), name) {
        (path, None) => path,
        (path, Some(name)) if path == "." => name.to_owned(),
        (path, Some(name)) => format!("{path}.{name}"),
    }
}

/// Whether the path ends with a member of an object, where null means that it is missing.
fn is_member(path: &Path) -> bool {
    matches!(path.iter().next_back(), Some(Segment::Map { .. }))
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use antiphon_access::keys::NewKey;
    use serde_json::json;

    use super::*;
    use crate::{Page, RotateRequest};

    fn refused<T: DeserializeOwned>(json: &Value) -> (&'static str, Option<String>) {
        let invalid = parse_object::<T>(json.to_string().as_bytes()).err().expect("it is refused");
        (invalid.code, invalid.param)
    }

    #[test]
    fn an_error_names_the_path_of_its_field() {
        let budget = |budget: Value| json!({"name": "a", "limits": {"budgets": [{"tokens": 1, "window": "day"}, budget]}});
        let per_model = |limits: Value| json!({"name": "a", "limits": {"per_model": [limits]}});
        for (key, code, param) in [
            (json!({}), "missing_required_parameter", "name"),
            (json!({"name": null}), "missing_required_parameter", "name"),
            (json!({"name": 7}), "invalid_type", "name"),
            (json!({"name": "a", "models": [null]}), "invalid_type", "models[0]"),
            (json!({"name": "a", "nmae": "b"}), "unknown_parameter", "nmae"),
            (json!({"name": "a", "limits": []}), "invalid_type", "limits"),
            (json!({"name": "a", "limits": {"rpm": 1}}), "unknown_parameter", "limits.rpm"),
            (budget(json!([1, null, "day", null])), "invalid_type", "limits.budgets[1]"),
            (budget(json!({"windwo": "day"})), "unknown_parameter", "limits.budgets[1].windwo"),
            (budget(json!({"tokens": 1})), "missing_required_parameter", "limits.budgets[1].window"),
            (budget(json!({"window": "year"})), "invalid_value", "limits.budgets[1].window"),
            (budget(json!({"cost": "1", "window": "day"})), "invalid_type", "limits.budgets[1].cost"),
            (per_model(json!({"models": "gpt-*"})), "invalid_type", "limits.per_model[0].models"),
            (per_model(json!({"models": [1]})), "invalid_type", "limits.per_model[0].models[0]"),
            (
                per_model(json!({"models": [], "requests_per_minute": -1})),
                "invalid_type",
                "limits.per_model[0].requests_per_minute",
            ),
        ] {
            assert_eq!(refused::<NewKey>(&key), (code, Some(param.to_owned())), "{key}");
        }
        let long = refused::<NewKey>(&json!({ "x".repeat(10_000): 1 })).1.unwrap();
        assert_eq!(long.len(), MAX_SHOWN_CHARS);
    }

    #[test]
    fn an_empty_body_is_an_object_without_members() {
        for body in ["", "null", "{}"] {
            assert!(parse_object::<RotateRequest>(body.as_bytes()).unwrap().overlap().is_zero(), "{body}");
        }
        for body in ["{", "[]", "7", " ", "{} {}"] {
            let invalid = parse_object::<RotateRequest>(body.as_bytes()).unwrap_err();
            assert_eq!((invalid.code, invalid.param), ("invalid_json", None), "{body}");
        }
    }

    #[test]
    fn an_error_names_its_query_parameter() {
        for (query, code, param) in [
            ("limit=0", "invalid_value", "limit"),
            ("limit=101", "invalid_value", "limit"),
            ("limit=x", "invalid_value", "limit"),
            ("limit=", "invalid_value", "limit"),
            ("page=2", "unknown_parameter", "page"),
            ("after=a&limit=1&after=b", "invalid_value", "after"),
        ] {
            let invalid = parse_query::<Page>(query).unwrap_err();
            assert_eq!((invalid.code, invalid.param.as_deref()), (code, Some(param)), "{query}");
        }
        let page: Page = parse_query("after=a%20b&limit=7").unwrap();
        assert_eq!((page.after(), page.rows()), (Some("a b"), 8));
        let page: Page = parse_query("after=").unwrap();
        assert_eq!((page.after(), page.rows()), (None, 101));
    }
}
