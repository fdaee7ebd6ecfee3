//! The API that an upstream speaks: a dialect encodes turns and decodes replies, whatever transport carries them. No I/O.
//!
//! A turn passes in a request of the Responses API and gets its events back, whichever API the upstream speaks. To add a
//! dialect: a file beside [`responses`], a variant of [`Dialect`] and of [`ReplyFormat`], and an arm in each of their methods;
//! the compiler asks for them.

pub mod chat;
mod responses;
mod unknown_error;

use std::sync::Arc;

use antiphon_protocol::error::ApiError;
use antiphon_protocol::event::Event;
use antiphon_protocol::id::ResponseId;
use antiphon_protocol::replay::Summaries;
use antiphon_protocol::request::{Changes, CreateRequest, Operation, UpstreamInput};
use antiphon_protocol::sse::FrameTooLarge;
use antiphon_runtime::{Clock, Timestamp};
use bytes::Bytes;
use http::StatusCode;

use self::chat::{ChatForm, ChatSettings};

/// The API that an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Responses,
    Chat(ChatSettings),
}

/// A turn as its upstream gets it.
#[derive(Debug)]
pub struct Encoded {
    /// The body of a request, or the frame for a WebSocket. Its parts share memory with the request and the chain.
    pub parts: Vec<Bytes>,
    /// How to read the reply.
    pub format: ReplyFormat,
    /// What the upstream can't have and was left out, by type.
    pub omitted: Vec<String>,
    /// Whether reasoning of earlier turns is in it as text.
    pub has_reasoning: bool,
}

/// What a reply is decoded with.
#[derive(Debug, Clone)]
pub enum ReplyFormat {
    /// Nothing has to be decoded: the reply is what the client expects.
    Responses,
    Chat(Arc<chat::Echo>),
}

/// What a response shows of its turn, if its upstream knows nothing of it.
#[derive(Debug, Clone, Copy)]
pub struct TurnFacts<'a> {
    pub id: ResponseId,
    pub started_at: Timestamp,
    pub clock: &'a Arc<dyn Clock>,
}

/// A part of a reply, as a transport delivers it.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of an HTTP reply, cut anywhere.
    Bytes(Bytes),
    /// A whole event, from a WebSocket.
    Event(Event),
    /// A whole reply that is no stream.
    Whole(Bytes),
}

/// Decodes the events of one streamed reply.
#[derive(Debug)]
pub struct Decoder(Inner);

#[derive(Debug)]
enum Inner {
    Responses(responses::Decoder),
    Chat(Box<chat::Decoder>),
}

// === impl Dialect ===

impl Dialect {
    /// Its name in lists and logs, as in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Responses => "responses",
            Self::Chat(_) => "chat",
        }
    }

    /// The path that turns go to.
    pub fn path(self) -> &'static str {
        self.endpoint(Operation::Create).path()
    }

    /// The operation at whose address an upstream carries out another one.
    pub(crate) fn endpoint(self, operation: Operation) -> Operation {
        match self {
            // Compacting and counting are never sent.
            Self::Chat(_) if operation != Operation::Embed => Operation::ChatCompletion,
            Self::Chat(_) | Self::Responses => operation,
        }
    }

    /// Whether there are encrypted items that the upstream can read.
    pub fn reads_encrypted_items(self) -> bool {
        matches!(self, Self::Responses)
    }

    /// The same for an upstream that takes chats in this form.
    #[must_use]
    pub fn in_form(self, form: ChatForm) -> Self {
        match self {
            Self::Responses => self,
            Self::Chat(settings) => Self::Chat(ChatSettings { form, ..settings }),
        }
    }

    pub fn summaries(self) -> Summaries {
        match self {
            Self::Responses => Summaries::AsMessages,
            Self::Chat(_) => Summaries::AsItems,
        }
    }

    /// Whether the upstream gets the turn in another form than the client sent it.
    pub fn translates(self, operation: Operation) -> bool {
        matches!(self, Self::Chat(_)) && !operation.passes_through()
    }

    /// # Errors
    ///
    /// What the upstream's API can't express, as an error for the client if no other account can.
    pub fn encode(
        self,
        create: &CreateRequest,
        input: &UpstreamInput,
        changes: Changes<'_>,
        facts: &TurnFacts<'_>,
    ) -> Result<Encoded, ApiError> {
        match self {
            Self::Chat(settings) if self.translates(create.operation) => {
                chat::encode(create, input, changes, &settings, facts)
            }
            Self::Responses | Self::Chat(_) => Ok(Encoded {
                parts: create.upstream_body(input, changes).parts,
                format: ReplyFormat::Responses,
                omitted: Vec::new(),
                has_reasoning: false,
            }),
        }
    }
}

// === impl ReplyFormat ===

impl ReplyFormat {
    /// Whether a reply that is decoded has to be a stream.
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Chat(echo) if echo.streams)
    }

    /// Whether the reply is not what the client expects until it has been decoded.
    pub fn is_decoded(&self) -> bool {
        matches!(self, Self::Chat(_))
    }

    /// Code and message of an error that came with a status of success.
    pub fn error_in(&self, body: &[u8]) -> Option<(&'static str, String)> {
        match self {
            Self::Responses => None,
            Self::Chat(_) => chat::error_in(body),
        }
    }

    /// The error reply in the format of the API that the client uses.
    /// `None` if it stays as it is.
    pub fn decode_error(&self, status: StatusCode, body: &[u8]) -> Option<Bytes> {
        match self {
            Self::Responses => None,
            Self::Chat(_) => chat::translate_error(status, body),
        }
    }

    /// An error in the format of that API for an error reply in no known form; `None` if it stays as it is.
    pub fn wrap_error(&self, status: StatusCode, body: &[u8]) -> Option<Bytes> {
        match self {
            // Whatever else it says is the client's to read.
            Self::Responses => body.is_empty().then(|| unknown_error::wrap(status, body)),
            Self::Chat(_) => Some(unknown_error::wrap(status, body)),
        }
    }

    /// The stream that stands for a whole reply; `None` if this is none.
    pub fn as_stream(&self, body: &[u8]) -> Option<Bytes> {
        match self {
            Self::Responses => None,
            Self::Chat(_) => chat::as_stream(body),
        }
    }

    pub fn decoder(&self, max_event_bytes: usize) -> Decoder {
        Decoder(match self {
            Self::Responses => Inner::Responses(responses::Decoder::new(max_event_bytes)),
            Self::Chat(echo) => Inner::Chat(Box::new(chat::Decoder::new(Arc::clone(echo), max_event_bytes))),
        })
    }
}

// === impl Decoder ===

impl Decoder {
    /// Takes the next piece of the reply. All events of the previous piece must have been read.
    pub fn push(&mut self, piece: Piece) {
        match &mut self.0 {
            Inner::Responses(decoder) => decoder.push(piece),
            Inner::Chat(decoder) => decoder.push(piece),
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
            Inner::Chat(decoder) => decoder.next_event(),
        }
    }

    /// How much it holds of events that have not come to their end.
    pub fn held_bytes(&self) -> usize {
        match &self.0 {
            Inner::Responses(decoder) => decoder.held_bytes(),
            Inner::Chat(decoder) => decoder.held_bytes(),
        }
    }

    /// Whether events that were passed on have `id` or `retry` lines.
    pub fn has_ids(&self) -> bool {
        match &self.0 {
            Inner::Responses(decoder) => decoder.has_ids(),
            Inner::Chat(_) => false,
        }
    }

    /// Whether the model has ended, so that the reply is whole even if it is cut now.
    pub fn has_answer(&self) -> bool {
        match &self.0 {
            Inner::Responses(_) => false,
            Inner::Chat(decoder) => decoder.has_answer(),
        }
    }

    /// At the end of the reply: what is left of it, event by event. The last blank line may be missing.
    pub fn finish(&mut self) -> Option<Event> {
        match &mut self.0 {
            Inner::Responses(decoder) => decoder.finish(),
            Inner::Chat(decoder) => decoder.finish(),
        }
    }

    /// The bytes that the spans of [server-sent events](Event::Sse) refer to.
    pub fn bytes(&self) -> &Bytes {
        match &self.0 {
            Inner::Responses(decoder) => decoder.bytes(),
            Inner::Chat(decoder) => decoder.bytes(),
        }
    }
}
