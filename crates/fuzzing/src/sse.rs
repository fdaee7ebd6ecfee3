//! Server-sent events: however the network cuts a stream, its events are those of the specification.

use antiphon_protocol::event::Event;
use antiphon_upstream::dialect::{Decoder, Piece, ReplyFormat};
use bytes::Bytes;

const BOM: &[u8] = b"\xef\xbb\xbf";
const NO_LIMIT: usize = usize::MAX;
const LIMIT: usize = 32;
/// Streams up to this long are cut at every byte, longer ones at this many.
const MAX_CUTS: usize = 24;

/// What a client sees of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: Option<Vec<u8>>,
    data: Vec<u8>,
}

#[derive(Debug, Default)]
struct Decoded {
    events: Vec<Seen>,
    /// The event whose blank line is missing.
    last: Option<Seen>,
    /// The sizes of all frames, with those of comments.
    frames: Vec<usize>,
    raw: Vec<u8>,
    is_too_large: bool,
}

pub fn check(stream: &[u8]) {
    let whole = decode([stream], NO_LIMIT);
    assert!(stream.starts_with(&whole.raw), "frames are slices of the stream, in order");
    let (events, last) = model(stream);
    assert_eq!((&whole.events, &whole.last), (&events, &last));

    let step = stream.len() / MAX_CUTS + 1;
    for cut in (0..=stream.len()).step_by(step) {
        let (head, tail) = stream.split_at(cut);
        check_same(&decode([head, tail], NO_LIMIT), &whole, stream);
    }
    check_same(&decode(stream.chunks(1), NO_LIMIT), &whole, stream);
    check_same(&decode(stream.chunks(7), NO_LIMIT), &whole, stream);
    check_limit(stream, &whole);
}

fn check_same(split: &Decoded, whole: &Decoded, stream: &[u8]) {
    assert_eq!((&split.events, &split.last), (&whole.events, &whole.last));
    assert!(stream.starts_with(&split.raw), "frames are slices of the stream, in order");
}

fn check_limit(stream: &[u8], whole: &Decoded) {
    let rest = stream.len() - whole.raw.len();
    let largest = whole.frames.iter().copied().max().unwrap_or(0).max(rest);
    let limited = decode([stream], LIMIT);
    assert_eq!(limited.is_too_large, largest > LIMIT, "{LIMIT} bytes are allowed, and {largest} came");
    assert!(whole.events.starts_with(&limited.events));
    let split = decode(stream.chunks(3), LIMIT);
    assert!(whole.events.starts_with(&split.events));
    // A line feed after a carriage return belongs to either frame, depending on how the stream is cut.
    if largest != LIMIT && largest != LIMIT + 1 {
        assert_eq!(split.is_too_large, limited.is_too_large);
    }
}

fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, max_event_bytes: usize) -> Decoded {
    let mut decoder = ReplyFormat::Responses.decoder(max_event_bytes);
    let mut decoded = Decoded::default();
    for chunk in chunks {
        decoder.push(Piece::Bytes(Bytes::copy_from_slice(chunk)));
        loop {
            match decoder.next_event() {
                Ok(Some(event)) => decoded.add(&event, &decoder),
                Ok(None) => break,
                Err(_) => {
                    decoded.is_too_large = true;
                    return decoded;
                }
            }
        }
    }
    decoded.last = decoder.finish().as_ref().and_then(Seen::of);
    decoded
}

impl Decoded {
    fn add(&mut self, event: &Event, decoder: &Decoder) {
        let Event::Sse(frame) = event else { panic!("bytes became a message: {event:?}") };
        if let Some(span) = &frame.span {
            assert_eq!(decoder.bytes()[span.clone()], frame.raw);
        }
        assert_eq!(event.data().as_deref(), event.shared_data().as_deref());
        self.frames.push(frame.raw.len());
        self.raw.extend_from_slice(&frame.raw);
        self.events.extend(Seen::of(event));
    }
}

impl Seen {
    fn of(event: &Event) -> Option<Self> {
        Some(Self { name: event.name().map(<[u8]>::to_vec), data: event.data()?.into_owned() })
    }
}

/// The events by the letter of the specification, from the lines of the whole stream, and the one whose blank line is missing.
fn model(stream: &[u8]) -> (Vec<Seen>, Option<Seen>) {
    let text = stream.strip_prefix(BOM).unwrap_or(stream);
    let mut events = Vec::new();
    let (mut name, mut data) = (Vec::new(), Vec::new());
    let dispatch = |name: &mut Vec<u8>, data: &mut Vec<&[u8]>| {
        let name = Some(std::mem::take(name)).filter(|name| !name.is_empty());
        let data = std::mem::take(data);
        (!data.is_empty()).then(|| Seen { name, data: data.join(&b"\n"[..]) })
    };
    let mut lines = lines(text).peekable();
    while let Some(line) = lines.next() {
        let is_finished = lines.peek().is_some();
        if line.is_empty() && is_finished {
            events.extend(dispatch(&mut name, &mut data));
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"event" => name = value.to_vec(),
            b"data" => data.push(value),
            _ => {}
        }
    }
    let last = dispatch(&mut name, &mut data);
    let is_json = |data: &[u8]| serde_json::from_slice::<&serde_json::value::RawValue>(data).is_ok();
    let is_whole = |event: &Seen| event.data == b"[DONE]" || is_json(&event.data);
    (events, last.filter(is_whole))
}

/// The lines without their ends, which are `\n`, `\r\n` or `\r`; the last one is unfinished.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else { return Some(text) };
        let width = if text[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = Some(&text[end + width..]);
        Some(&text[..end])
    })
}
