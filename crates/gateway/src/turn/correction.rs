//! What is put right in an upstream's replies before anybody sees or keeps them: an error may quote the account's credential.

use antiphon_protocol::json::Object;
use antiphon_protocol::response::ResponseEvent;
use antiphon_upstream::transport::Redaction;
use bytes::Bytes;

/// Puts the replies of one account right. Nothing is searched that carries no error.
#[derive(Debug, Clone, Default)]
pub struct Corrections {
    redaction: Option<Redaction>,
}

// === impl Corrections ===

impl Corrections {
    pub fn new(redaction: Redaction) -> Self {
        Self { redaction: Some(redaction) }
    }

    /// The data of an error event; `None` if it stays as it is.
    pub fn of_error(&self, data: &[u8]) -> Option<Bytes> {
        let redaction = self.redaction.as_ref()?;
        let received = Bytes::copy_from_slice(data);
        let redacted = redaction.redact(received.clone());
        (redacted != received).then_some(redacted)
    }

    /// The event that ends a response; `None` if it stays as it is.
    pub fn of_terminal(&self, ResponseEvent { event, response }: &ResponseEvent<'_>) -> Option<Bytes> {
        if has_error(response) { self.of_error(event.text) } else { None }
    }

    /// A collected reply; `None` if it stays as it is.
    pub fn of_collected(&self, reply: &Object<'_>) -> Option<Bytes> {
        if has_error(reply) { self.of_error(reply.text) } else { None }
    }
}

fn has_error(reply: &Object<'_>) -> bool {
    reply.get("error").is_some_and(|error| error != b"null")
}
