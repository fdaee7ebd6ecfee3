//! The door by which a turn came in, and what depends on it.

use std::sync::Arc;

use super::background::Run;
use super::framing::Framing;
use super::memory::Lane;

/// How the client sends the request and gets its reply.
#[derive(Debug, Clone)]
pub enum Door {
    /// The reply is one JSON object.
    Collected,
    /// The reply is a stream of server-sent events.
    Sse,
    /// Each event is a text frame on a lane of a WebSocket.
    WebSocket(Lane),
    /// The client asks for the response later.
    Background(Arc<Run>),
}

// === impl Door ===

impl Door {
    /// The door's name in logs, metrics and the request log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Collected => "http",
            Self::Sse => "sse",
            Self::WebSocket(_) => "websocket",
            Self::Background(_) => "background",
        }
    }

    /// Whether the upstream is asked for events rather than one object. A background turn may take longer than an upstream
    /// may be silent.
    pub fn streams(&self) -> bool {
        !matches!(self, Self::Collected)
    }

    /// The lane that remembers the turn's response, so that it can be continued even if it is not stored.
    pub fn lane(&self) -> Option<&Lane> {
        match self {
            Self::WebSocket(lane) => Some(lane),
            Self::Collected | Self::Sse | Self::Background(_) => None,
        }
    }

    /// The background turn that is run.
    pub fn run(&self) -> Option<&Arc<Run>> {
        if let Self::Background(run) = self { Some(run) } else { None }
    }

    /// How events are written.
    pub fn framing(&self) -> Framing {
        match self {
            Self::Collected | Self::Sse | Self::Background(_) => Framing::Sse,
            Self::WebSocket(lane) => Framing::Socket(lane.stream_id.clone()),
        }
    }

    /// Whether comments keep the client's connection alive. A WebSocket has pings for that.
    pub fn needs_keep_alive(&self) -> bool {
        matches!(self, Self::Sse)
    }

    /// Whether the headers that Codex reads are sent as events, because a turn has no headers of its own.
    pub fn has_codex_events(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }
}
