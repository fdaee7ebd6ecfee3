//! The stream of a chat completion: its events go to the client as they come, and only what the turn needs to know is read.

use antiphon_protocol::error::ApiError;
use antiphon_protocol::json::{self, Object};
use antiphon_protocol::usage::Usage;
use antiphon_store::Status;
use antiphon_upstream::dialect::chat;
use bytes::Bytes;
use serde_json::json;

use super::record::Finished;

/// The data of the event that ends the stream.
const DONE: &[u8] = b"[DONE]";

/// What a stream that passes through has said so far.
#[derive(Debug, Default)]
pub struct Passage {
    usage: Usage,
    /// The code and the message of its error event.
    error: Option<(String, String)>,
    /// Whether an event has said why it ends: the answer is whole, or something went wrong.
    may_end: bool,
}

// === impl Passage ===

impl Passage {
    /// Looks at the data of an event. Returns whether it is an error, by its name or by what it carries.
    pub fn look_at(&mut self, name: Option<&[u8]>, data: &[u8]) -> bool {
        let member = |name: &str| {
            // Few events hold one.
            memchr::memmem::find(data, name.as_bytes())?;
            json::member(data, name).filter(|value| *value != b"null")
        };
        let is_object = |value: &&[u8]| value.first() == Some(&b'{');
        if let Some(usage) = member("usage").filter(is_object) {
            self.usage = Usage::parse(usage);
        }
        let error = error_in(name, data);
        self.may_end = self.may_end || error.is_some() || member("choices").is_some_and(says_why_it_ended);
        if let Some(error) = error {
            let (known_code, message) = chat::code_and_message(error);
            let own_code = json::string_member(error, "code").filter(|code| !code.is_empty());
            self.error = Some((own_code.unwrap_or(known_code.into()).into_owned(), message));
        }
        error.is_some()
    }

    pub fn is_end(data: &[u8]) -> bool {
        data == DONE
    }

    /// Whether the stream may end here without its mark.
    pub fn may_end(&self) -> bool {
        self.may_end
    }

    /// The code and the message of the error event. An error without a code has the one that its type or its text stands for.
    pub fn error(&self) -> Option<&(String, String)> {
        self.error.as_ref()
    }

    /// What the turn was.
    pub fn finished(&self) -> Finished {
        let response = match &self.error {
            Some((code, message)) => json!({"error": {"code": code, "message": message}}).to_string().into(),
            None => Bytes::from_static(b"{}"),
        };
        Finished {
            status: if self.error.is_some() { Status::Failed } else { Status::Completed },
            response,
            body: None,
            output: Bytes::from_static(b"[]"),
            upstream_id: None,
            usage: self.usage,
        }
    }

    /// The event that ends a stream in place of the upstream, in the form that clients of the API read; nothing after an error
    /// of the upstream's own.
    pub fn failure_event(&self, error: &ApiError) -> Bytes {
        match &self.error {
            Some(_) => Bytes::new(),
            None => [b"data: ", error.envelope().as_slice(), b"\n\n"].concat().into(),
        }
    }
}

/// The error that an event carries or is.
fn error_in<'a>(name: Option<&[u8]>, data: &'a [u8]) -> Option<&'a [u8]> {
    let is_named = name == Some(b"error");
    if !is_named && memchr::memmem::find(data, b"error").is_none() {
        return None;
    }
    match Object::scan(data) {
        Ok(event) => chat::error_in_event(&event, is_named),
        Err(_) => is_named.then_some(data),
    }
}

fn says_why_it_ended(choices: &[u8]) -> bool {
    json::elements(choices).map_while(Result::ok).any(|choice| {
        json::string_member(&choices[choice], "finish_reason").is_some_and(|reason| !reason.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_and_errors_are_read_from_the_events() {
        let mut passage = Passage::default();
        passage.look_at(None, br#"{"choices":[{"delta":{"content":"\"usage\": error"}}],"usage":null}"#);
        assert_eq!(
            (passage.finished().status, passage.finished().usage),
            (Status::Completed, Usage::default())
        );
        passage.look_at(None, br#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#);
        assert_eq!((passage.finished().usage.input_tokens, passage.finished().usage.output_tokens), (3, 2));
        assert!(Passage::is_end(b"[DONE]") && !Passage::is_end(b"{}"));
    }

    #[test]
    fn an_error_is_read_in_every_form() {
        let error = Some(&b"error"[..]);
        for (name, data, code) in [
            (None, r#"{"error":{"message":"m","type":"t","code":"c"}}"#, "c"),
            (
                None,
                r#"{"error":{"message":"m","type":"rate_limit_error","code":null}}"#,
                "rate_limit_exceeded",
            ),
            (None, r#"{"error":{"message":"m","code":429}}"#, "rate_limit_exceeded"),
            (None, r#"{"error":"m"}"#, "server_error"),
            (
                None,
                r#"{"object":"error","message":"m","type":"BadRequestError","code":400}"#,
                "invalid_prompt",
            ),
            (error, r#"{"error":{"message":"m"}}"#, "server_error"),
            (error, r#"{"message":"m"}"#, "server_error"),
            (error, r#""m""#, "server_error"),
        ] {
            let mut passage = Passage::default();
            assert!(passage.look_at(name, data.as_bytes()), "{data}");
            assert_eq!(passage.error(), Some(&(code.to_owned(), "m".to_owned())), "{data}");
            let finished = passage.finished();
            assert_eq!((finished.status, finished.error().as_ref()), (Status::Failed, passage.error()));
        }
        let mut passage = Passage::default();
        for data in
            [r#"{"error":null}"#, r#"{"error":""}"#, r#"{"error":{}}"#, r#"{"object":"x","y":"error"}"#]
        {
            assert!(!passage.look_at(None, data.as_bytes()) && !passage.may_end(), "{data}");
        }
        assert_eq!(passage.finished().status, Status::Completed);
        assert!(passage.look_at(error, b"overloaded") && passage.error().is_some());
    }

    #[test]
    fn a_stream_may_end_once_a_choice_or_an_error_has_said_why() {
        let may_end_after = |name: Option<&[u8]>, data: &str| {
            let mut passage = Passage::default();
            passage.look_at(name, data.as_bytes());
            passage.may_end()
        };
        assert!(may_end_after(None, r#"{"choices":[{"finish_reason":null},{"finish_reason":"stop"}]}"#));
        assert!(
            may_end_after(None, r#"{"error":"m"}"#) && may_end_after(Some(b"error"), r#"{"message":"m"}"#)
        );
        for data in [
            "{}",
            r#"{"choices":[]}"#,
            r#"{"choices":[{"delta":{"content":"\"finish_reason\":\"stop\""},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":""}]}"#,
        ] {
            assert!(!may_end_after(None, data), "{data}");
        }
    }
}
