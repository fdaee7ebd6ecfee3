//! Token counts as the upstream reports them.

use crate::json::{self, Object};

/// The `usage` of a response; counts that the upstream leaves out are zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
}

impl Usage {
    /// Reads a `usage` object.
    pub fn parse(usage: &[u8]) -> Self {
        let Ok(usage) = Object::scan(usage) else { return Self::default() };
        let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse().ok();
        let count = |name: &str| usage.get(name).and_then(number).unwrap_or(0);
        let detail = |name: &str, key: &str| {
            usage.get(name).and_then(|details| json::member(details, key)).and_then(number).unwrap_or(0)
        };
        Self {
            input_tokens: count("input_tokens"),
            cached_tokens: detail("input_tokens_details", "cached_tokens"),
            output_tokens: count("output_tokens"),
            reasoning_tokens: detail("output_tokens_details", "reasoning_tokens"),
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
            Usage { input_tokens: 17, cached_tokens: 3, output_tokens: 2, reasoning_tokens: 0 }
        );
        assert_eq!(Usage::parse(b"null"), Usage::default());
    }
}
