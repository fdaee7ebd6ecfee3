//! One turn of a connection, from its frame to its last event.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use antiphon_protocol::id::ResponseId;
use antiphon_protocol::request::CreateRequest;
use antiphon_protocol::socket::CreateFrame;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::lanes::QueuedFrame;
use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::turn::{DetachOnDrop, Door, DrainOnDrop, Incoming, Lane, TurnError};
use antiphon_access::keys::Caller;

/// Client metadata with this prefix in a frame goes upstream as headers, as over HTTP.
const METADATA_PREFIX: &str = "x-codex-";
/// The maximum number of these headers and their maximum size in all. Few servers accept more than 100 headers.
const MAX_METADATA: usize = 64;
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// A running turn, which occupies its lane. If it is dropped and is to be stored, it continues without its client.
pub struct SocketTurn {
    pub lane: Lane,
    /// The response that it continues.
    parent: Option<ResponseId>,
    stage: Stage,
}

enum Stage {
    Starting(DetachOnDrop<Result<DrainOnDrop, TurnError>>),
    Events(DrainOnDrop),
    Failed(ErrorReply),
    Done,
}

impl SocketTurn {
    pub fn begin(
        state: &AppState,
        headers: &HeaderMap,
        caller: &Caller,
        lane: Lane,
        queued: QueuedFrame,
    ) -> Self {
        let QueuedFrame { frame, memory } = queued;
        let CreateFrame { previous_response_id, request, .. } = *frame;
        let parent = previous_response_id.and_then(|id| id.parse().ok());
        let request = match request {
            Ok(_) if state.memory.refuses_turn() => Err(RequestError::MemoryShort),
            request => request.map_err(RequestError::from),
        };
        let create = match request {
            Ok(create) => create,
            Err(error) => {
                return Self { lane, parent, stage: Stage::Failed(state.reject("frame", &error).into()) };
            }
        };
        let mut headers = headers.clone();
        take_metadata(&create, &mut headers);
        let incoming =
            Incoming { create, headers, caller: caller.clone(), door: Door::WebSocket(lane.clone()), memory };
        Self { lane, parent, stage: Stage::Starting(state.turns.stream(incoming)) }
    }

    /// The next frame for the client, or `None` when there are no more.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.stage {
                Stage::Starting(starting) => {
                    self.stage = match ready!(Pin::new(starting).poll(cx)) {
                        Ok(events) => Stage::Events(events),
                        Err(error) => Stage::Failed(error.into()),
                    };
                }
                Stage::Events(events) => return events.poll_chunk(cx),
                Stage::Failed(error) => {
                    let frame = error.frame(self.lane.stream_id.as_ref());
                    // The lane forgets the parent, so that the client sends the whole context next time.
                    if let Some(parent) = self.parent {
                        self.lane.evict(parent);
                    }
                    self.stage = Stage::Done;
                    return Poll::Ready(Some(frame));
                }
                Stage::Done => return Poll::Ready(None),
            }
        }
    }
}

/// Adds the client metadata of a frame to the headers, up to the maximum.
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
