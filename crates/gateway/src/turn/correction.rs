//! What is put right in an upstream's replies before anybody sees or keeps them: an error may quote the account's credential, and
//! a response that has ended may say that it has not.

use antiphon_protocol::json::{self, Object, Set};
use antiphon_protocol::response::{ResponseEvent, RewrittenEvent};
use antiphon_store::Status;
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

    /// The event that ends a response; `None` if it stays as it is. Whoever polls a response until it has ended would never
    /// stop: so if its status says that it has not, the one that the event's type implies takes its place.
    pub fn of_terminal(&self, carrying: &ResponseEvent<'_>, implied: Option<Status>) -> Option<Bytes> {
        let ended =
            implied.filter(|_| is_open(&carrying.response)).map(|status| with_status(carrying, status));
        if !has_error(&carrying.response) && !has_error(&carrying.event) {
            return ended;
        }
        let redacted = self.of_error(ended.as_deref().unwrap_or(carrying.event.text));
        redacted.or(ended)
    }

    /// A collected reply; `None` if it stays as it is.
    pub fn of_collected(&self, reply: &Object<'_>) -> Option<Bytes> {
        if has_error(reply) { self.of_error(reply.text) } else { None }
    }
}

/// Whether a response says that it has not ended.
pub fn is_open(response: &Object<'_>) -> bool {
    let status = response.get("status").and_then(json::string);
    matches!(status.as_deref(), Some("queued" | "in_progress"))
}

fn with_status(ResponseEvent { event, response }: &ResponseEvent<'_>, status: Status) -> Bytes {
    let span = event.find("response").map_or(0..0, |member| member.value.clone());
    let mut rewritten = RewrittenEvent { data: event.text.to_vec(), response: span };
    let value = format!("\"{}\"", status.as_str());
    let mut ended = Vec::with_capacity(response.text.len() + value.len());
    response.set(&[Set { name: "status", value: value.as_bytes(), add: true }], &mut ended);
    rewritten.replace_response(|_| Some(ended));
    rewritten.data.into()
}

/// Whether an object says what went wrong. A response that has failed may say so outside of its `error`.
fn has_error(object: &Object<'_>) -> bool {
    let has_failed = object.get("status") == Some(b"\"failed\"");
    has_failed || object.get("error").is_some_and(|error| error != b"null")
}
