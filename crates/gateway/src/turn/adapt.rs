//! What an account that refuses a turn is spared in another try, as it could not cope with it.

use antiphon_protocol::error::UpstreamError;
use http::StatusCode;

/// A socket that had waited was gone: a new one may do.
pub const STALE: &str = "socket_stale";

/// How a turn is put to one account.
#[derive(Debug)]
pub struct Approach<'a> {
    /// The upstream's own id of the parent, which it keeps itself.
    pub previous: Option<&'a str>,
    /// Whether it gets encrypted items.
    pub can_read: bool,
    /// Whether encrypted reasoning is asked for that the client has not asked for.
    pub include: bool,
    /// Whether it goes over a WebSocket.
    pub over_socket: bool,
}

// === impl Approach ===

impl<'a> Approach<'a> {
    /// What the socket had is lost with it: the upstream gets all of the chain, unless it keeps responses anyway.
    pub fn fall_back(&mut self, why: &str, native_parent: Option<&'a str>) {
        self.previous = native_parent;
        self.over_socket = why == STALE;
    }

    /// Another approach, if that may help, and what it is called in logs and metrics.
    pub fn adapt(&mut self, status: StatusCode, error: &UpstreamError) -> Option<&'static str> {
        if self.previous.is_some() && is_unknown_parent(status, error) {
            self.previous = None;
            return Some("parent_unknown");
        }
        if self.can_read && status == StatusCode::BAD_REQUEST && error.is_unreadable_content() {
            self.can_read = false;
            return Some("content_unreadable");
        }
        if self.include && refuses_include(status, error) {
            self.include = false;
            return Some("include_refused");
        }
        None
    }
}

/// Whether an upstream that keeps responses has no longer the one that was to be continued.
fn is_unknown_parent(status: StatusCode, error: &UpstreamError) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
        && (error.code.as_deref() == Some("previous_response_not_found")
            || error.param.as_deref() == Some("previous_response_id"))
}

/// Whether this is a 400 against the `include` that was added to the client's request.
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
