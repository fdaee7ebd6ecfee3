//! One turn of a socket, from its frame to its last event.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use antiphon_protocol::id::ResponseId;
use antiphon_protocol::socket::CreateFrame;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::lanes::Asked;
use crate::http::doors::Doors;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::turn::{DetachOnDrop, Door, DrainOnDrop, Incoming, Lane, TurnError};
use antiphon_access::keys::Caller;

/// What a client says of a turn in its frame goes upstream as these headers do over HTTP.
const METADATA_PREFIX: &str = "x-codex-";

/// A turn that holds its lane. Dropped, it goes on without its client if it is to be stored.
pub struct Running {
    pub lane: Lane,
    /// What it continues, if anything.
    parent: Option<ResponseId>,
    stage: Stage,
}

enum Stage {
    Beginning(DetachOnDrop<Result<DrainOnDrop, TurnError>>),
    Events(DrainOnDrop),
    Failed(ErrorReply),
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
                return Self { lane, parent, stage: Stage::Failed(reject(doors, &error.into())) };
            }
        };
        let mut headers = headers.clone();
        for (name, value) in create.client_metadata().filter(|(name, _)| name.starts_with(METADATA_PREFIX)) {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                headers.insert(name, value);
            }
        }
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
                        Err(error) => Stage::Failed(error.into()),
                    };
                }
                Stage::Events(events) => return events.poll_chunk(cx),
                Stage::Failed(error) => {
                    let frame = error.frame(self.lane.stream_id.as_ref());
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

/// Counts a frame that did not become a turn.
pub fn reject(doors: &Doors, error: &RequestError) -> ErrorReply {
    let row = error.row();
    doors.count_rejected(&row);
    tracing::info!(error.code = row.error.code.as_deref(), "frame rejected before parsing");
    row.into()
}
