//! The form of a request for one account, and what is left out of it after the account has rejected it.

use antiphon_protocol::error::UpstreamError;
use http::StatusCode;

/// An idle socket turned out to be closed: a new one may work.
pub const SOCKET_STALE: &str = "socket_stale";

/// How a turn is sent to one account.
#[derive(Debug)]
pub struct RequestVariant<'a> {
    /// The upstream's own id of the parent, if the upstream has it.
    pub upstream_parent: Option<&'a str>,
    /// Whether encrypted items are sent.
    pub send_encrypted: bool,
    /// Whether to request encrypted reasoning, although the client did not.
    pub include_encrypted: bool,
    /// Whether the turn is sent over a WebSocket.
    pub over_socket: bool,
}

// === impl RequestVariant ===

impl<'a> RequestVariant<'a> {
    /// Leaves a socket and what the upstream remembered on it. The upstream gets the whole chain, unless it stores responses.
    pub fn leave_socket(&mut self, reason: &str, native_parent: Option<&'a str>) {
        self.upstream_parent = native_parent;
        self.over_socket = reason == SOCKET_STALE;
    }

    /// Leaves out what the upstream has rejected. Returns the name of the change for logs and metrics; `None` if there is
    /// nothing to leave out.
    pub fn reduce(&mut self, status: StatusCode, error: &UpstreamError) -> Option<&'static str> {
        if self.upstream_parent.is_some() && is_unknown_parent(status, error) {
            self.upstream_parent = None;
            return Some("parent_unknown");
        }
        if self.send_encrypted && status == StatusCode::BAD_REQUEST && error.is_unreadable_content() {
            self.send_encrypted = false;
            return Some("content_unreadable");
        }
        if self.include_encrypted && refuses_include(status, error) {
            self.include_encrypted = false;
            return Some("include_refused");
        }
        None
    }
}

/// Whether the upstream no longer has the parent.
fn is_unknown_parent(status: StatusCode, error: &UpstreamError) -> bool {
    // vLLM calls the parameter as its path for reading a response does.
    let params = ["previous_response_id", "response_id"];
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
        && (error.code.as_deref() == Some("previous_response_not_found")
            || error.param.as_deref().is_some_and(|param| params.contains(&param)))
}

/// Whether this is a 400 for the `include` that was added to the client's request.
fn refuses_include(status: StatusCode, error: &UpstreamError) -> bool {
    if status != StatusCode::BAD_REQUEST {
        return false;
    }
    let message = error.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    let param = error.param.as_deref();
    param.is_some_and(|param| param == "include" || param.starts_with("include["))
        || message.contains("encrypted content")
        || message.contains("reasoning.encrypted_content")
}
