//! Token counts: as the upstream names them, or estimated.

use antiphon_protocol::json;

/// About as many bytes are one token.
const BYTES_PER_TOKEN: usize = 4;

/// The `usage` of a response, from that of a chat completion.
pub fn from_chat(usage: &[u8]) -> Vec<u8> {
    let number = |value: Option<&[u8]>| -> u64 {
        value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
    };
    let count = |name| number(json::member(usage, name));
    let detail = |of, name| number(json::member(usage, of).and_then(|details| json::member(details, name)));
    // DeepSeek names its cache hits beside the other counts.
    let cached = detail("prompt_tokens_details", "cached_tokens").max(count("prompt_cache_hit_tokens"));
    let reasoning = detail("completion_tokens_details", "reasoning_tokens");
    write([count("prompt_tokens"), cached, count("completion_tokens"), reasoning], "")
}

/// For an upstream that reports nothing. The mark tells it from a report.
pub fn estimated(request_bytes: usize, output_bytes: usize) -> Vec<u8> {
    let tokens = |bytes: usize| bytes.div_ceil(BYTES_PER_TOKEN) as u64;
    write([tokens(request_bytes), 0, tokens(output_bytes), 0], r#","estimated":true"#)
}

fn write([input, cached, output, reasoning]: [u64; 4], mark: &str) -> Vec<u8> {
    let total = input.saturating_add(output);
    format!(
        r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":{cached},"cache_write_tokens":0}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":{reasoning}}},"total_tokens":{total}{mark}}}"#
    )
    .into_bytes()
}
