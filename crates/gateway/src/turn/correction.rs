//! What is put right in an upstream's replies before anybody sees or keeps them: an error may quote the account's credential, and
//! a response that has ended may say that it has not.

use antiphon_protocol::json::{self, Object, Set};
use antiphon_protocol::response::{ResponseEvent, RewrittenEvent};
use antiphon_store::Status;
use antiphon_upstream::transport::Redaction;
use bytes::Bytes;
use serde_json::json;

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
    /// stop: so if its status says that it has not, the one that the event's type implies takes its place. `told` is what an
    /// `error` event before it has said: it stands for the reason of a failure that has none.
    pub fn of_terminal(
        &self,
        carrying: &ResponseEvent<'_>,
        implied: Option<Status>,
        told: Option<&(String, String)>,
    ) -> Option<Bytes> {
        let response = &carrying.response;
        let ended = implied.filter(|_| is_open(response)).map(|status| format!("\"{}\"", status.as_str()));
        let has_failed = implied == Some(Status::Failed) || has_failed(response);
        let reason = told
            .filter(|_| has_failed && !has_code(response))
            .map(|(code, message)| json!({ "code": code, "message": message }).to_string());
        let set = |name, value: &Option<String>| value.as_ref().map(|value| (name, value.clone()));
        let members: Vec<_> = [set("status", &ended), set("error", &reason)].into_iter().flatten().collect();
        let changed = (!members.is_empty()).then(|| with_members(carrying, &members));
        if !has_error(response) && !has_error(&carrying.event) {
            return changed;
        }
        let redacted = self.of_error(changed.as_deref().unwrap_or(carrying.event.text));
        redacted.or(changed)
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

/// The event with other members in its response.
fn with_members(
    ResponseEvent { event, response }: &ResponseEvent<'_>,
    members: &[(&'static str, String)],
) -> Bytes {
    let span = event.find("response").map_or(0..0, |member| member.value.clone());
    let mut rewritten = RewrittenEvent { data: event.text.to_vec(), response: span };
    let set = members.iter().map(|(name, value)| Set { name, value: value.as_bytes(), add: true });
    let mut changed = Vec::with_capacity(response.text.len() + 64);
    response.set(&set.collect::<Vec<_>>(), &mut changed);
    rewritten.replace_response(|_| Some(changed));
    rewritten.data.into()
}

fn has_failed(response: &Object<'_>) -> bool {
    response.get("status") == Some(b"\"failed\"")
}

/// Whether a failed response says of what.
fn has_code(response: &Object<'_>) -> bool {
    let code = response.get("error").and_then(|error| json::string_member(error, "code"));
    code.is_some_and(|code| !code.is_empty())
}

/// Whether an object says what went wrong. A response that has failed may say so outside of its `error`.
fn has_error(object: &Object<'_>) -> bool {
    has_failed(object) || object.get("error").is_some_and(|error| error != b"null")
}
