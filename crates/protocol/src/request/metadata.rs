//! The API's rules for `metadata`: at most 16 pairs, keys of 64 and values of 512 characters.

use crate::error::ApiError;
use crate::json;

use super::{invalid, wrong_type};

const MAX_PAIRS: usize = 16;
const MAX_KEY_CHARS: usize = 64;
const MAX_VALUE_CHARS: usize = 512;

pub(crate) fn check(metadata: &[u8]) -> Result<(), ApiError> {
    if metadata.first() != Some(&b'{') {
        return Err(wrong_type("metadata", "a metadata object", metadata));
    }
    let pairs = || json::members(metadata).map_while(Result::ok);
    let count = pairs().count();
    if count > MAX_PAIRS {
        let message = format!(
            "Invalid 'metadata': too many properties. Expected an object with at most {MAX_PAIRS} properties, but got an object with {count} properties instead."
        );
        return Err(invalid("object_above_max_properties", Some("metadata"), message));
    }
    for pair in pairs() {
        let key = json::string(&metadata[pair.key]).unwrap_or_default();
        within("metadata", &key, MAX_KEY_CHARS)?;
        let value = &metadata[pair.value];
        let name = format!("metadata.{key}");
        let text = json::string(value).ok_or_else(|| wrong_type(&name, "a string", value))?;
        within(&name, &text, MAX_VALUE_CHARS)?;
    }
    Ok(())
}

/// Metadata that follow the rules, without anything between their members.
pub(crate) fn compact(metadata: &[u8]) -> Vec<u8> {
    let mut out = vec![b'{'];
    for pair in json::members(metadata).map_while(Result::ok) {
        if out.len() > 1 {
            out.push(b',');
        }
        json::write_string(&mut out, &json::string(&metadata[pair.key]).unwrap_or_default());
        out.push(b':');
        json::write_string(&mut out, &json::string(&metadata[pair.value]).unwrap_or_default());
    }
    out.push(b'}');
    out
}

fn within(name: &str, text: &str, max_chars: usize) -> Result<(), ApiError> {
    let chars = text.chars().count();
    if chars <= max_chars {
        return Ok(());
    }
    let message = format!(
        "Invalid '{name}': string too long. Expected a string with maximum length {max_chars}, but got a string with length {chars} instead."
    );
    Err(invalid("string_above_max_length", Some(name), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_must_follow_the_rules_of_the_api() {
        assert!(check(br#"{"a":"b"}"#).is_ok());
        let many = (0..17).map(|n| format!("\"k{n}\":\"v\"")).collect::<Vec<_>>().join(",");
        let code = |metadata: String| check(metadata.as_bytes()).unwrap_err().code.unwrap();
        assert_eq!(code(format!("{{{many}}}")), "object_above_max_properties");
        assert_eq!(code(format!("{{\"{}\":\"v\"}}", "é".repeat(65))), "string_above_max_length");
        assert_eq!(code(format!("{{\"k\":\"{}\"}}", "v".repeat(513))), "string_above_max_length");
        assert_eq!(code("{\"k\":1}".to_owned()), "invalid_type");
        assert_eq!(code(r#"{"k":"\ud800"}"#.to_owned()), "invalid_value");
        assert_eq!(code("[]".to_owned()), "invalid_type");
    }
}
