//! Token counts as the upstream reports them.

use crate::json::{self, Object};

/// The `usage` of a response, or of a chat completion or embeddings, which name the counts otherwise; counts that the upstream leaves out are zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    /// Whether this is no report but an estimate.
    pub is_estimated: bool,
}

impl Usage {
    /// Reads a `usage` object.
    pub fn parse(usage: &[u8]) -> Self {
        let Ok(usage) = Object::scan(usage) else { return Self::default() };
        let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse().ok();
        let first = |names: [&str; 2]| names.into_iter().find_map(|name| usage.get(name));
        let count = |names| first(names).and_then(number).unwrap_or(0);
        let detail = |names, key: &str| {
            first(names).and_then(|details| json::member(details, key)).and_then(number).unwrap_or(0)
        };
        Self {
            input_tokens: count(["input_tokens", "prompt_tokens"]),
            cached_tokens: detail(["input_tokens_details", "prompt_tokens_details"], "cached_tokens"),
            output_tokens: count(["output_tokens", "completion_tokens"]),
            reasoning_tokens: detail(
                ["output_tokens_details", "completion_tokens_details"],
                "reasoning_tokens",
            ),
            is_estimated: usage.get("estimated") == Some(b"true"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_missing_ones_are_zero() {
        let usage = Usage::parse(
            br#"{"input_tokens":17,"input_tokens_details":{"cached_tokens":3},"output_tokens":2,"output_tokens_details":null}"#,
        );
        assert_eq!(
            usage,
            Usage {
                input_tokens: 17,
                cached_tokens: 3,
                output_tokens: 2,
                reasoning_tokens: 0,
                is_estimated: false
            }
        );
        let chat = Usage::parse(
            br#"{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens":3,"completion_tokens_details":{"reasoning_tokens":1}}"#,
        );
        assert_eq!(
            chat,
            Usage {
                input_tokens: 9,
                cached_tokens: 4,
                output_tokens: 3,
                reasoning_tokens: 1,
                is_estimated: false
            }
        );
        assert!(Usage::parse(br#"{"input_tokens":1,"estimated":true}"#).is_estimated);
        assert_eq!(Usage::parse(b"null"), Usage::default());
    }
}
