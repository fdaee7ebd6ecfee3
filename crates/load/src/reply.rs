//! Replies are searched, not parsed.

use crate::outcome::Failure;
use memchr::memmem;

/// What the next turn of a chain continues.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) id: String,
    /// The call that it answers, in chains of calls.
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

/// How a turn of a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    Completed,
    NotCompleted,
    Refused { status: u16 },
}

impl Last {
    /// `None` when more events of the turn follow this one.
    pub(crate) fn of(event: &[u8]) -> Option<Self> {
        values(event, b"\"type\"").find_map(|kind| match kind {
            b"response.completed" => Some(Self::Completed),
            b"response.failed" | b"response.incomplete" => Some(Self::NotCompleted),
            // Without a status it is an event of a stream that ends otherwise.
            b"error" => status(event).map(|status| Self::Refused { status }),
            _ => None,
        })
    }
}

fn status(event: &[u8]) -> Option<u16> {
    let event: serde_json::Value = serde_json::from_slice(event).ok()?;
    event["status"].as_u64()?.try_into().ok()
}

/// The strings that stand behind this key, at any depth. A text cannot be taken for a key: its quotes are escaped.
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
    fn the_response_id_is_found_wherever_it_stands() {
        let id = |response| found(response, false).map(|(id, _)| id);
        assert_eq!(id(br#"{"id":"resp_1","output":[]}"#).as_deref(), Ok("resp_1"));
        assert_eq!(id(br#"{"output":[{"id": "msg_1"}], "id" : "resp_2"}"#).as_deref(), Ok("resp_2"));
        assert_eq!(id(br#"{"error":{}}"#), Err(Failure::NoId));
    }

    #[test]
    fn a_call_is_found_when_there_has_to_be_one() {
        let call = br#"{"id":"resp_1","output":[{"id":"fc_1","call_id":"call_1","name":"f"}]}"#;
        let both = (String::from("resp_1"), Some(String::from("call_1")));
        assert_eq!(found(call, true), Ok(both));
        assert_eq!(found(call, false), Ok((String::from("resp_1"), None)));
        assert_eq!(found(br#"{"id":"resp_1","output":[]}"#, true), Err(Failure::NoCall));
    }

    #[test]
    fn the_last_event_of_a_turn_is_known_by_its_type() {
        assert_eq!(Last::of(br#"{"type":"response.completed","response":{}}"#), Some(Last::Completed));
        assert_eq!(
            Last::of(br#"{ "response": {"id": "a"}, "type": "response.failed" }"#),
            Some(Last::NotCompleted)
        );
        assert_eq!(Last::of(br#"{"type":"response.output_text.delta"}"#), None);
    }

    #[test]
    fn a_text_that_talks_about_the_end_is_not_the_end() {
        let talk = br#"{"type":"response.output_text.delta","delta":"{\"type\":\"response.completed\"}"}"#;
        assert_eq!(Last::of(talk), None);
    }

    #[test]
    fn an_error_ends_a_turn_if_it_has_a_status() {
        let refused = br#"{"type":"error","status":404,"error":{"type":"invalid_request_error"}}"#;
        assert_eq!(Last::of(refused), Some(Last::Refused { status: 404 }));
        assert_eq!(Last::of(br#"{"type":"error","code":"server_error"}"#), None);
    }
}
