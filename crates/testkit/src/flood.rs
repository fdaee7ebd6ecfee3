//! A reply that fits into no buffer.

use antiphon_simulator::upstream::Script;

/// Far more than the buffers of both sockets on the way take.
const FLOOD_EVENTS: usize = 1024;
const EVENT_BYTES: usize = 64 * 1024;

/// A stream that is far larger than what fits between the upstream and a client that does not read.
pub fn flood() -> Script {
    let event = |name: &str, number: usize, rest: &str| {
        format!("event: {name}\ndata: {{\"type\":\"{name}\",\"sequence_number\":{number},{rest}}}\n\n")
    };
    let response = |status: &str| {
        format!(
            "\"response\":{{\"id\":\"up\",\"object\":\"response\",\"status\":\"{status}\",\"output\":[]}}"
        )
    };
    let mut stream = event("response.created", 0, &response("in_progress"));
    let delta = format!("\"delta\":\"{}\"", "x".repeat(EVENT_BYTES));
    for number in 1..=FLOOD_EVENTS {
        stream.push_str(&event("response.output_text.delta", number, &delta));
    }
    stream.push_str(&event("response.completed", FLOOD_EVENTS + 1, &response("completed")));
    Script::stream_bytes(stream).writes_of(EVENT_BYTES)
}
