//! One turn of a socket, from its frame to its last event.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use antiphon_protocol::id::ResponseId;
use antiphon_protocol::request::CreateRequest;
use antiphon_protocol::socket::CreateFrame;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::lanes::Asked;
use super::refusal;
use crate::http::doors::Doors;
use crate::turn::{DetachOnDrop, Door, DrainOnDrop, Failure, Incoming, Lane, Rejected};
use antiphon_access::keys::Caller;

/// What a client says of a turn in its frame goes upstream as these headers do over HTTP.
const METADATA_PREFIX: &str = "x-codex-";
/// How many of these are taken, and how many bytes of them: few servers take more than 100 headers in all.
const MAX_METADATA: usize = 64;
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// A turn that holds its lane. Dropped, it goes on without its client if it is to be stored.
pub struct Running {
    pub lane: Lane,
    /// What it continues, if anything.
    parent: Option<ResponseId>,
    stage: Stage,
}

enum Stage {
    Beginning(DetachOnDrop<Result<DrainOnDrop, Rejected>>),
    Events(DrainOnDrop),
    Refused(Rejected),
    Over,
}

impl Running {
    pub fn begin(doors: &Doors, headers: &HeaderMap, caller: &Caller, lane: Lane, asked: Asked) -> Self {
        let Asked { frame, permit } = asked;
        let CreateFrame { previous_response_id, request, .. } = *frame;
        let parent = previous_response_id.and_then(|id| id.parse().ok());
        let create = match request {
            Ok(create) => create,
            Err(error) => {
                let failure = Failure::Request(error);
                refused_unread(doors, &failure);
                return Self { lane, parent, stage: Stage::Refused(Rejected { failure, rates: None }) };
            }
        };
        let mut headers = headers.clone();
        take_metadata(&create, &mut headers);
        let incoming = Incoming {
            create,
            headers,
            caller: caller.clone(),
            door: Door::WebSocket(lane.clone()),
            body_permit: permit,
        };
        Self { lane, parent, stage: Stage::Beginning(doors.turns.stream(incoming)) }
    }

    /// The next frame for the client, or `None` when there are no more.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.stage {
                Stage::Beginning(begun) => {
                    self.stage = match ready!(Pin::new(begun).poll(cx)) {
                        Ok(events) => Stage::Events(events),
                        Err(rejected) => Stage::Refused(rejected),
                    };
                }
                Stage::Events(events) => return events.poll_chunk(cx),
                Stage::Refused(rejected) => {
                    let frame = refusal::render_turn(rejected, self.lane.stream_id.as_ref());
                    // What could not be continued now is not offered again: the client sends everything.
                    if let Some(parent) = self.parent {
                        self.lane.evict(parent);
                    }
                    self.stage = Stage::Over;
                    return Poll::Ready(Some(frame));
                }
                Stage::Over => return Poll::Ready(None),
            }
        }
    }
}

/// Takes what the frame says for headers, as far as a request over HTTP could have as many.
fn take_metadata(create: &CreateRequest, headers: &mut HeaderMap) {
    let (mut taken, mut bytes) = (0, 0);
    for (name, value) in create.client_metadata().filter(|(name, _)| name.starts_with(METADATA_PREFIX)) {
        bytes += name.len() + value.len();
        if taken == MAX_METADATA || bytes > MAX_METADATA_BYTES {
            tracing::debug!(taken, "the rest of a frame's client_metadata was ignored");
            return;
        }
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.insert(name, value);
            taken += 1;
        }
    }
}

/// Counts a frame that did not become a turn.
pub fn refused_unread(doors: &Doors, failure: &Failure) {
    let code = failure.api_error().code;
    doors.turns.metrics.turn_failed(failure.fault().as_str(), code.as_deref());
    tracing::info!(error.code = code.as_deref(), "a frame was refused unread");
}
