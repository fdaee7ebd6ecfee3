//! Finds ids and terminal events in replies, by searching instead of parsing.

use crate::outcome::Failure;
use memchr::memmem;

/// The ids that the next turn of a chain continues.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) id: String,
    /// The call whose output it sends, in chains of calls.
    pub(crate) call_id: Option<String>,
}

impl Parent {
    /// Finds the ids in a response, or in an event with a response.
    pub(crate) fn find(response: &[u8], with_call: bool) -> Result<Self, Failure> {
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).ok();
        let id = values(response, b"\"id\"").find(|id| id.starts_with(b"resp"));
        let id = id.and_then(text).ok_or(Failure::NoId)?;
        let call_id = if with_call {
            Some(values(response, b"\"call_id\"").next().and_then(text).ok_or(Failure::NoCall)?)
        } else {
            None
        };
        Ok(Self { id, call_id })
    }
}

/// The last event of a turn on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastEvent {
    Completed,
    NotCompleted,
    Refused { status: u16 },
}

impl LastEvent {
    /// `None` when more events of the turn follow this one.
    pub(crate) fn parse(event: &[u8]) -> Option<Self> {
        values(event, b"\"type\"").find_map(|kind| match kind {
            b"response.completed" => Some(Self::Completed),
            b"response.failed" | b"response.incomplete" => Some(Self::NotCompleted),
            // Without a status, it is an event of a stream, and another event ends the turn.
            b"error" => status(event).map(|status| Self::Refused { status }),
            _ => None,
        })
    }
}

fn status(event: &[u8]) -> Option<u16> {
    let event: serde_json::Value = serde_json::from_slice(event).ok()?;
    event["status"].as_u64()?.try_into().ok()
}

/// The string values of this key, at any depth. Text of the model cannot be mistaken for a key, as its quotes are escaped.
fn values<'b>(body: &'b [u8], key: &'static [u8]) -> impl Iterator<Item = &'b [u8]> {
    memmem::find_iter(body, key).filter_map(move |at| {
        let rest = body[at + key.len()..].trim_ascii_start().strip_prefix(b":")?;
        let value = rest.trim_ascii_start().strip_prefix(b"\"")?;
        Some(&value[..memchr::memchr(b'"', value)?])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(response: &[u8], with_call: bool) -> Result<(String, Option<String>), Failure> {
        Parent::find(response, with_call).map(|Parent { id, call_id }| (id, call_id))
    }

    #[test]
    fn the_response_id_is_found_at_any_position() {
        let id = |response| found(response, false).map(|(id, _)| id);
        assert_eq!(id(br#"{"id":"resp_1","output":[]}"#).as_deref(), Ok("resp_1"));
        assert_eq!(id(br#"{"output":[{"id": "msg_1"}], "id" : "resp_2"}"#).as_deref(), Ok("resp_2"));
        assert_eq!(id(br#"{"error":{}}"#), Err(Failure::NoId));
    }

    #[test]
    fn a_call_is_found_where_one_is_required() {
        let call = br#"{"id":"resp_1","output":[{"id":"fc_1","call_id":"call_1","name":"f"}]}"#;
        let both = (String::from("resp_1"), Some(String::from("call_1")));
        assert_eq!(found(call, true), Ok(both));
        assert_eq!(found(call, false), Ok((String::from("resp_1"), None)));
        assert_eq!(found(br#"{"id":"resp_1","output":[]}"#, true), Err(Failure::NoCall));
    }

    #[test]
    fn the_last_event_of_a_turn_is_known_by_its_type() {
        assert_eq!(
            LastEvent::parse(br#"{"type":"response.completed","response":{}}"#),
            Some(LastEvent::Completed)
        );
        assert_eq!(
            LastEvent::parse(br#"{ "response": {"id": "a"}, "type": "response.failed" }"#),
            Some(LastEvent::NotCompleted)
        );
        assert_eq!(LastEvent::parse(br#"{"type":"response.output_text.delta"}"#), None);
    }

    #[test]
    fn text_that_names_a_terminal_event_does_not_end_the_turn() {
        let talk = br#"{"type":"response.output_text.delta","delta":"{\"type\":\"response.completed\"}"}"#;
        assert_eq!(LastEvent::parse(talk), None);
    }

    #[test]
    fn an_error_ends_a_turn_if_it_has_a_status() {
        let refused = br#"{"type":"error","status":404,"error":{"type":"invalid_request_error"}}"#;
        assert_eq!(LastEvent::parse(refused), Some(LastEvent::Refused { status: 404 }));
        assert_eq!(LastEvent::parse(br#"{"type":"error","code":"server_error"}"#), None);
    }
}
