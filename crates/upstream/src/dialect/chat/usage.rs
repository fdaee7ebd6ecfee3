//! Token counts: as the upstream names them, or estimated.

use std::borrow::Cow;

use antiphon_protocol::json;
use antiphon_protocol::usage::uncounted_reasoning;

/// About as many bytes are one token.
const BYTES_PER_TOKEN: usize = 4;

/// The `usage` of a response, from that of a chat completion as far as there is one. A count that is missing is estimated from
/// the sizes of request and output, and the mark tells that from a report.
pub fn from_chat(usage: Option<&[u8]>, request_bytes: usize, output_bytes: usize) -> Vec<u8> {
    let usage = usage.unwrap_or(b"{}");
    let count = |name| number(json::member(usage, name)?);
    let detail = |of, name| {
        let details = json::member(usage, of);
        details.and_then(|details| json::member(details, name)).and_then(number).unwrap_or(0)
    };
    // DeepSeek and Moonshot name their cache hits beside the other counts.
    let beside = count("prompt_cache_hit_tokens").or_else(|| count("cached_tokens")).unwrap_or(0);
    let cached = detail("prompt_tokens_details", "cached_tokens").max(beside);
    let reasoning = detail("completion_tokens_details", "reasoning_tokens");
    let (input, output, total) = (count("prompt_tokens"), count("completion_tokens"), count("total_tokens"));
    let uncounted = match (input, output, total) {
        (Some(input), Some(output), Some(total)) => uncounted_reasoning(input, output, total),
        _ => 0,
    };
    let (output, reasoning) = (output.map(|output| output + uncounted), reasoning.max(uncounted));
    let estimated = |bytes: usize| bytes.div_ceil(BYTES_PER_TOKEN) as u64;
    let counts = [
        input.unwrap_or_else(|| estimated(request_bytes)),
        cached,
        output.unwrap_or_else(|| estimated(output_bytes)),
        reasoning,
    ];
    write(counts, if input.is_some() && output.is_some() { "" } else { r#","estimated":true"# })
}

/// A count, which some servers write as a fraction or as a string.
fn number(value: &[u8]) -> Option<u64> {
    let text = json::string(value).or_else(|| std::str::from_utf8(value).ok().map(Cow::Borrowed))?;
    let rounded = || text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    text.parse().ok().or_else(|| rounded().map(|number| number.ceil() as u64))
}

fn write([input, cached, output, reasoning]: [u64; 4], mark: &str) -> Vec<u8> {
    let total = input.saturating_add(output);
    format!(
        r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":{cached},"cache_write_tokens":0}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":{reasoning}}},"total_tokens":{total}{mark}}}"#
    )
    .into_bytes()
}
