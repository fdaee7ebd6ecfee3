//! The stream of a chat completion: its events go to the client as they come, and only what the turn needs to know is read.

use antiphon_protocol::error::ApiError;
use antiphon_protocol::json;
use antiphon_protocol::usage::Usage;
use antiphon_store::Status;
use bytes::Bytes;

use super::record::Finished;

/// The data of the event that ends the stream.
const DONE: &[u8] = b"[DONE]";

/// What a stream that passes through has said so far.
#[derive(Debug, Default)]
pub struct Passage {
    usage: Usage,
    /// The object of its error event.
    error: Option<Bytes>,
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
        let error = member("error");
        let is_error = error.is_some() || name == Some(b"error");
        self.may_end = self.may_end || is_error || member("choices").is_some_and(says_why_it_ended);
        if let Some(error) = error.filter(is_object) {
            self.error = Some(Bytes::copy_from_slice(error));
        }
        is_error
    }

    pub fn is_end(data: &[u8]) -> bool {
        data == DONE
    }

    /// Whether the stream may end here without its mark.
    pub fn may_end(&self) -> bool {
        self.may_end
    }

    /// The code and the message of the error event; where there is no code, the type stands for it.
    pub fn error(&self) -> Option<(String, String)> {
        let error = self.error.as_ref()?;
        let text = |name| json::string_member(error, name).map(Into::into);
        let code = text("code").or_else(|| text("type")).unwrap_or_default();
        Some((code, text("message").unwrap_or_default()))
    }

    /// What the turn was.
    pub fn finished(&self) -> Finished {
        let mut response = b"{}".to_vec();
        if let Some(error) = &self.error {
            response = [b"{\"error\":", &error[..], b"}"].concat();
        }
        Finished {
            status: if self.error.is_some() { Status::Failed } else { Status::Completed },
            response: response.into(),
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
        passage.look_at(None, br#"{"error":{"message":"m","type":"t","code":null}}"#);
        assert_eq!(passage.error(), Some(("t".to_owned(), "m".to_owned())));
        assert_eq!(passage.finished().status, Status::Failed);
        assert!(Passage::is_end(b"[DONE]") && !Passage::is_end(b"{}"));
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
