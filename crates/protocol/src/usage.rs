//! Token counts as the upstream reports them.

use crate::json;

/// The most tokens of a kind that count: upstreams report any number, and sums must not overflow.
pub const MAX_TOKENS: u64 = 1_000_000_000_000;

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
        const NAMES: [&str; 10] = [
            "input_tokens",
            "prompt_tokens",
            "input_tokens_details",
            "prompt_tokens_details",
            "output_tokens",
            "completion_tokens",
            "output_tokens_details",
            "completion_tokens_details",
            "estimated",
            "total_tokens",
        ];
        let mut values = [None; NAMES.len()];
        for member in json::members(usage) {
            let Ok(member) = member else { return Self::default() };
            if let Some(index) = NAMES.iter().position(|name| member.is(usage, name)) {
                values[index] = Some(&usage[member.value]);
            }
        }
        let [
            input,
            prompt,
            of_input,
            of_prompt,
            output,
            completion,
            of_output,
            of_completion,
            estimated,
            total,
        ] = values;
        let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        let count = |value: Option<_>| value.and_then(number).unwrap_or(0).min(MAX_TOKENS);
        let detail =
            |details: Option<_>, name| count(details.and_then(|details| json::member(details, name)));
        let uncounted = match (prompt, completion) {
            (Some(_), Some(_)) => uncounted_reasoning(count(prompt), count(completion), count(total)),
            _ => 0,
        };
        Self {
            input_tokens: count(input.or(prompt)),
            cached_tokens: detail(of_input.or(of_prompt), "cached_tokens"),
            output_tokens: count(output.or(completion)) + uncounted,
            reasoning_tokens: detail(of_output.or(of_completion), "reasoning_tokens").max(uncounted),
            is_estimated: estimated == Some(b"true"),
        }
    }
}

/// The tokens of reasoning that a chat completion counts in its total alone, as Gemini's and xAI's do.
pub fn uncounted_reasoning(prompt: u64, completion: u64, total: u64) -> u64 {
    total.saturating_sub(prompt.saturating_add(completion))
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
        let gemini = Usage::parse(br#"{"prompt_tokens":20,"completion_tokens":424,"total_tokens":1036}"#);
        assert_eq!((gemini.output_tokens, gemini.reasoning_tokens), (1016, 592));
        assert!(Usage::parse(br#"{"input_tokens":1,"estimated":true}"#).is_estimated);
        assert_eq!(Usage::parse(b"null"), Usage::default());
    }

    #[test]
    fn counts_are_bounded() {
        let usage = Usage::parse(
            br#"{"input_tokens":4611686018427387904,"input_tokens_details":{"cached_tokens":1000000000001},"output_tokens":1000000000000}"#,
        );
        let counts = [usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens];
        assert_eq!(counts, [MAX_TOKENS, MAX_TOKENS, MAX_TOKENS, 0]);
    }
}
