//! The form of a request for one account, and what is left out of it after the account has rejected it.

use antiphon_protocol::error::UpstreamError;
use antiphon_upstream::dialect::chat::ChatForm;
use http::StatusCode;

use super::unreadable::Reading;

/// An idle socket turned out to be closed: a new one may work.
pub const SOCKET_STALE: &str = "socket_stale";
/// How often only some of the encrypted items are left out before all are. Of those that another account has made since this one
/// served the chain, all but the last may be known after one refusal; another one names that.
const MAX_SELECTIVE: u32 = 2;
/// Encrypted items are left out.
const CONTENT_UNREADABLE: &str = "content_unreadable";

/// How a turn is sent to one account.
#[derive(Debug)]
pub struct RequestVariant<'a> {
    /// The upstream's own id of the parent, if the upstream has it.
    pub upstream_parent: Option<&'a str>,
    /// Whether encrypted items are sent.
    pub send_encrypted: bool,
    /// The positions of the client's own sealed items that the account cannot read, ascending: they are left out.
    pub unreadable: Vec<u32>,
    /// The positions of those that it may or may not read, ascending. It gets the newest of them, on trial.
    pub doubtful: Vec<u32>,
    /// How often the account has refused encrypted items in this turn.
    pub encrypted_refusals: u32,
    /// Whether to request encrypted reasoning, although the client did not.
    pub include_encrypted: bool,
    /// Whether the account may have refused that.
    pub include_refused: bool,
    /// Whether generated images are sent as messages.
    pub images_as_messages: bool,
    /// The form of the request where it is translated to a chat.
    pub chat_form: ChatForm,
    /// The form that was known before the turn.
    pub known_chat_form: ChatForm,
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

    /// The positions of the client's own sealed items that the account does not get, ascending, while it gets others.
    pub fn left_out(&self) -> Vec<u32> {
        let doubtful = self.doubtful.split_last().map_or(&[][..], |(_on_trial, others)| others);
        let mut left_out = [&self.unreadable[..], doubtful].concat();
        left_out.sort_unstable();
        left_out.dedup();
        left_out
    }

    /// Whether the account refuses encrypted items that it got of the client's own.
    pub fn refuses_own_items(&self, status: StatusCode, error: &UpstreamError) -> bool {
        self.send_encrypted && self.upstream_parent.is_none() && is_unreadable(status, error)
    }

    /// Leaves out these items of the client's own, or else the one on trial: then the account has made none of the older doubtful
    /// ones. Returns the name of the change; `None` if all sealed items have to be left out.
    pub fn leave_out_unreadable(&mut self, positions: &[u32]) -> Option<&'static str> {
        self.encrypted_refusals += 1;
        let known = self.unreadable.len();
        self.unreadable.extend(positions);
        self.unreadable.sort_unstable();
        self.unreadable.dedup();
        let is_found = self.unreadable.len() > known;
        if self.doubtful.last().is_some_and(|on_trial| !is_found || positions.contains(on_trial)) {
            self.unreadable.append(&mut self.doubtful);
            self.unreadable.sort_unstable();
            self.unreadable.dedup();
        }
        let is_changed = self.unreadable.len() > known;
        (is_changed && self.encrypted_refusals <= MAX_SELECTIVE).then_some(CONTENT_UNREADABLE)
    }

    /// What the account's success says of an item of the client's own, after it has refused some.
    pub fn reading_of(&self, position: u32) -> Reading {
        let is_on_trial = self.doubtful.last() == Some(&position);
        if self.unreadable.binary_search(&position).is_ok() {
            Reading::Refused
        } else if !self.send_encrypted || (!is_on_trial && self.doubtful.binary_search(&position).is_ok()) {
            Reading::Doubtful
        } else {
            Reading::Read
        }
    }

    /// Leaves out what the upstream has rejected. Returns the name of the change for logs and metrics; `None` if there is
    /// nothing to leave out.
    pub fn reduce(&mut self, status: StatusCode, error: &UpstreamError) -> Option<&'static str> {
        if self.upstream_parent.is_some() && is_unknown_parent(status, error) {
            self.upstream_parent = None;
            return Some("parent_unknown");
        }
        if self.send_encrypted && is_unreadable(status, error) {
            self.send_encrypted = false;
            return Some(CONTENT_UNREADABLE);
        }
        if self.include_encrypted && refuses_include(status, error) {
            self.include_encrypted = false;
            self.include_refused = true;
            return Some("include_refused");
        }
        if !self.images_as_messages && refuses_images(status, error) {
            self.images_as_messages = true;
            return Some("images_refused");
        }
        None
    }
}

/// Whether the upstream cannot read encrypted items.
fn is_unreadable(status: StatusCode, error: &UpstreamError) -> bool {
    status == StatusCode::BAD_REQUEST && error.is_unreadable_content()
}

/// Whether the upstream no longer has the parent.
fn is_unknown_parent(status: StatusCode, error: &UpstreamError) -> bool {
    // vLLM calls the parameter as its path for reading a response does.
    let params = ["previous_response_id", "response_id"];
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
        && (error.code.as_deref() == Some("previous_response_not_found")
            || error.param.as_deref().is_some_and(|param| params.contains(&param)))
}

/// Whether this may be a 400 for a call that made an image: for its id, which nobody keeps, or for a member that only outputs have.
fn refuses_images(status: StatusCode, error: &UpstreamError) -> bool {
    const MEMBERS: [&str; 6] =
        ["].action", "].background", "].output_format", "].quality", "].revised_prompt", "].size"];
    let is_named = |text: &str| {
        let is_member = text.contains("input[") && MEMBERS.iter().any(|member| text.contains(member));
        is_member || text.contains("image_generation_call") || text.contains("'ig_")
    };
    let texts = [&error.message, &error.param];
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
        && texts.into_iter().flatten().any(|text| is_named(text))
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
