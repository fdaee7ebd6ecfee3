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
}

// === impl Passage ===

impl Passage {
    /// Looks at the data of an event. Returns whether it carries an error.
    pub fn look_at(&mut self, data: &[u8]) -> bool {
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
        if let Some(error) = error.filter(is_object) {
            self.error = Some(Bytes::copy_from_slice(error));
        }
        error.is_some()
    }

    pub fn is_end(data: &[u8]) -> bool {
        data == DONE
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_and_errors_are_read_from_the_events() {
        let mut passage = Passage::default();
        passage.look_at(br#"{"choices":[{"delta":{"content":"\"usage\": error"}}],"usage":null}"#);
        assert_eq!(
            (passage.finished().status, passage.finished().usage),
            (Status::Completed, Usage::default())
        );
        passage.look_at(br#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#);
        assert_eq!((passage.finished().usage.input_tokens, passage.finished().usage.output_tokens), (3, 2));
        passage.look_at(br#"{"error":{"message":"m","type":"t","code":null}}"#);
        assert_eq!(passage.error(), Some(("t".to_owned(), "m".to_owned())));
        assert_eq!(passage.finished().status, Status::Failed);
        assert!(Passage::is_end(b"[DONE]") && !Passage::is_end(b"{}"));
    }
}
