//! The events of a stream, in the order of the recordings.

use super::item::{Item, Kind, summary_part, text_part};
use super::json::Object;
use super::reply::Reply;
use super::script::Ending;
use bytes::Bytes;

/// The framing of an event's JSON.
#[derive(Clone, Copy)]
pub(super) enum Framing<'l> {
    /// The lines of an event stream.
    Sse,
    /// A socket's message: plain JSON, with the lane as a member.
    Text { lane: Option<&'l str> },
}

/// Renders a reply as frames, each a whole event.
pub(super) fn render(
    reply: &Reply<'_>,
    error: Option<&(String, String)>,
    deltas: usize,
    framing: Framing<'_>,
) -> Vec<Bytes> {
    let mut events = Events { frames: Vec::new(), framing };
    let running = reply.running();
    events.push("response.created", |event| event.raw("response", &running));
    events.push("response.in_progress", |event| event.raw("response", &running));
    for (index, item) in reply.items.iter().enumerate() {
        let item_events = ItemEvents { item, index, deltas };
        item_events.write(&mut events, &item.done(reply.item_status(index)));
    }
    if let Some((code, message)) = error {
        events
            .push("error", |event| event.value("code", code).value("message", message).raw("param", "null"));
    }
    if reply.ending != Ending::Silent {
        let kind = format!("response.{}", reply.status());
        events.push(&kind, |event| event.raw("response", &reply.over()));
    }
    events.frames
}

struct Events<'l> {
    frames: Vec<Bytes>,
    framing: Framing<'l>,
}

impl Events<'_> {
    fn push(&mut self, kind: &str, fill: impl FnOnce(Object) -> Object) {
        let event = Object::new().value("type", kind).value("sequence_number", &self.frames.len());
        let event = fill(event);
        let frame = match self.framing {
            Framing::Sse => format!("event: {kind}\ndata: {}\n\n", event.finish()),
            Framing::Text { lane: Some(lane) } => event.value("stream_id", lane).finish(),
            Framing::Text { lane: None } => event.finish(),
        };
        self.frames.push(frame.into());
    }
}

/// The events of one output item.
struct ItemEvents<'r> {
    item: &'r Item,
    index: usize,
    deltas: usize,
}

impl ItemEvents<'_> {
    fn write(&self, events: &mut Events<'_>, done: &str) {
        self.item_event(events, "response.output_item.added", &self.item.begun());
        match &self.item.kind {
            Kind::Message { text } => self.text(events, text),
            Kind::Reasoning { summary } if !summary.is_empty() => self.summary(events, summary),
            Kind::Call { name, arguments, .. } => self.arguments(events, name, arguments),
            Kind::Reasoning { .. } | Kind::Raw { .. } => (),
        }
        self.item_event(events, "response.output_item.done", done);
    }

    fn item_event(&self, events: &mut Events<'_>, kind: &str, item: &str) {
        events.push(kind, |event| event.value("output_index", &self.index).raw("item", item));
    }

    /// An event about a part of the item.
    fn part(&self, events: &mut Events<'_>, kind: &str, fill: impl FnOnce(Object) -> Object) {
        events.push(kind, |event| {
            fill(event.value("item_id", &self.item.id).value("output_index", &self.index))
        });
    }

    fn text(&self, events: &mut Events<'_>, text: &str) {
        self.part(events, "response.content_part.added", |event| {
            event.raw("content_index", "0").raw("part", &text_part(""))
        });
        for delta in split(text, self.deltas) {
            self.part(events, "response.output_text.delta", |event| {
                event.raw("content_index", "0").value("delta", delta).raw("logprobs", "[]")
            });
        }
        self.part(events, "response.output_text.done", |event| {
            event.raw("content_index", "0").value("text", text).raw("logprobs", "[]")
        });
        self.part(events, "response.content_part.done", |event| {
            event.raw("content_index", "0").raw("part", &text_part(text))
        });
    }

    fn summary(&self, events: &mut Events<'_>, summary: &str) {
        self.part(events, "response.reasoning_summary_part.added", |event| {
            event.raw("summary_index", "0").raw("part", &summary_part(""))
        });
        for delta in split(summary, self.deltas) {
            self.part(events, "response.reasoning_summary_text.delta", |event| {
                event.raw("summary_index", "0").value("delta", delta)
            });
        }
        self.part(events, "response.reasoning_summary_text.done", |event| {
            event.raw("summary_index", "0").value("text", summary)
        });
        self.part(events, "response.reasoning_summary_part.done", |event| {
            event.raw("summary_index", "0").raw("part", &summary_part(summary))
        });
    }

    fn arguments(&self, events: &mut Events<'_>, name: &str, arguments: &str) {
        for delta in split(arguments, self.deltas) {
            self.part(events, "response.function_call_arguments.delta", |event| event.value("delta", delta));
        }
        self.part(events, "response.function_call_arguments.done", |event| {
            event.value("arguments", arguments).value("name", name)
        });
    }
}

/// Splits text into at most `count` pieces of nearly equal length, none of them empty.
pub(super) fn split(text: &str, count: usize) -> Vec<&str> {
    let letters = text.chars().count();
    let count = count.clamp(1, letters.max(1));
    let mut pieces = Vec::with_capacity(count);
    let mut rest = text;
    for piece in 0..count {
        let length = letters * (piece + 1) / count - letters * piece / count;
        let end = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
        let (head, tail) = rest.split_at(end);
        if !head.is_empty() {
            pieces.push(head);
        }
        rest = tail;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_text_is_split_on_characters_into_pieces_that_add_up() {
        assert_eq!(split("añb", 2), ["a", "ñb"]);
        assert_eq!(split("ab", 5), ["a", "b"]);
        assert_eq!(split("", 3), Vec::<&str>::new());
        assert_eq!(split("abcdefg", 3).concat(), "abcdefg");
    }
}
