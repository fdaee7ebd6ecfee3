//! The API that an upstream speaks: a dialect encodes turns and decodes replies, whatever transport carries them. No I/O.
//!
//! A turn passes in a request of the Responses API and gets its events back, whichever API the upstream speaks. To add a
//! dialect: a file beside [`responses`], a variant of [`Dialect`], and an arm in each of its methods; the compiler asks for them.

mod responses;

use antiphon_protocol::event::Event;
use antiphon_protocol::request::{Changes, CreateRequest, Operation, UpstreamInput};
use antiphon_protocol::sse::FrameTooLarge;
use bytes::Bytes;

/// The API that an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Responses,
}

/// A part of a reply, as a transport delivers it.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of an HTTP reply, cut anywhere.
    Bytes(Bytes),
    /// A whole event, from a WebSocket.
    Event(Event),
}

/// Decodes the events of one streamed reply.
#[derive(Debug)]
pub struct Decoder(Inner);

#[derive(Debug)]
enum Inner {
    Responses(responses::Decoder),
}

// === impl Dialect ===

impl Dialect {
    /// The path of an operation below an account's base URL.
    pub(crate) fn path(self, operation: Operation) -> &'static str {
        match self {
            Self::Responses => operation.path(),
        }
    }

    /// The body of a request, or the frame for a WebSocket. Its parts share memory with the request and the chain.
    pub fn encode(self, create: &CreateRequest, input: &UpstreamInput, changes: Changes<'_>) -> Vec<Bytes> {
        match self {
            Self::Responses => create.upstream_body(input, changes).parts,
        }
    }

    /// The response object in a collected reply. The caller checks whether it is one.
    pub fn decode_collected(self, body: Bytes) -> Bytes {
        match self {
            Self::Responses => body,
        }
    }

    pub fn decoder(self, max_event_bytes: usize) -> Decoder {
        Decoder(match self {
            Self::Responses => Inner::Responses(responses::Decoder::new(max_event_bytes)),
        })
    }
}

// === impl Decoder ===

impl Decoder {
    /// Takes the next piece of the reply. All events of the previous piece must have been read.
    pub fn push(&mut self, piece: Piece) {
        match &mut self.0 {
            Inner::Responses(decoder) => decoder.push(piece),
        }
    }

    /// The next event, or `None` when more of the reply is needed.
    ///
    /// # Errors
    ///
    /// [`FrameTooLarge`] if an event exceeds the limit. The stream can't be read any further.
    pub fn next_event(&mut self) -> Result<Option<Event>, FrameTooLarge> {
        match &mut self.0 {
            Inner::Responses(decoder) => decoder.next_event(),
        }
    }

    /// At the end of the reply: the last event, if only its blank line is missing.
    pub fn finish(&mut self) -> Option<Event> {
        match &mut self.0 {
            Inner::Responses(decoder) => decoder.finish(),
        }
    }

    /// The bytes that the spans of [server-sent events](Event::Sse) refer to.
    pub fn bytes(&self) -> &Bytes {
        match &self.0 {
            Inner::Responses(decoder) => decoder.bytes(),
        }
    }
}
