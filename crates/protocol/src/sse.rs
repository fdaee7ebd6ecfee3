//! Server-sent events, decoded so that they can be relayed byte for byte.
//!
//! A [`Decoder`] cuts the stream into frames at blank lines, for any line endings and any split of the bytes by the network.
//! A frame that arrived in one chunk is a slice of it; only a frame that spans several is copied.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Everything up to and including a blank line.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The bytes as received, including the blank line.
    pub raw: Bytes,
    /// The range of `raw` in its [`Decoder::chunk`]; `None` if it spans several.
    pub span: Option<Range<usize>>,
    event: Option<Range<usize>>,
    data: Data,
    /// Whether it has an `id` or a `retry` line.
    has_id: bool,
}

#[derive(Debug, Clone)]
enum Data {
    Absent,
    Line(Range<usize>),
    /// Several `data` lines, joined by line feeds.
    Lines(Vec<u8>),
}

/// A frame grew beyond the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {max_bytes} bytes")]
pub struct FrameTooLarge {
    pub max_bytes: usize,
}

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub struct Decoder {
    max_frame_bytes: usize,
    /// The beginning of an unfinished frame, from earlier chunks.
    pending: BytesMut,
    chunk: Bytes,
    /// Where the next frame begins in `chunk`.
    start: usize,
    /// How far `chunk` has been searched for line ends.
    scanned: usize,
    /// Whether no byte of the current line has been seen yet.
    line_is_empty: bool,
    /// Whether the last byte seen was a carriage return, so that a line feed would belong to it.
    after_cr: bool,
    /// Whether no frame has been yielded yet, so that a byte order mark may precede it.
    at_stream_start: bool,
    /// Whether a frame had an `id` or a `retry` line.
    has_ids: bool,
}

// === impl Frame ===

impl Frame {
    fn parse(raw: Bytes, span: Option<Range<usize>>, may_have_bom: bool) -> Self {
        let mut event = None;
        let mut data = Data::Absent;
        let mut has_id = false;
        let mut at = if may_have_bom && raw.starts_with(BOM) { BOM.len() } else { 0 };
        while at < raw.len() {
            let end = memchr2(b'\n', b'\r', &raw[at..]).map_or(raw.len(), |n| at + n);
            if let Some(value) = field(&raw, at..end, b"event") {
                event = Some(value);
            } else if let Some(value) = field(&raw, at..end, b"data") {
                data = data.with(&raw, value);
            } else {
                has_id |= [&b"id"[..], b"retry"].iter().any(|name| field(&raw, at..end, name).is_some());
            }
            at = end + 1;
        }
        Self { raw, span, event, data, has_id }
    }

    /// The event's name.
    pub fn event(&self) -> Option<&[u8]> {
        self.event.clone().map(|range| &self.raw[range]).filter(|name| !name.is_empty())
    }

    /// The event's data; `None` for a frame of comments.
    pub fn data(&self) -> Option<Cow<'_, [u8]>> {
        match &self.data {
            Data::Absent => None,
            Data::Line(range) => Some(Cow::Borrowed(&self.raw[range.clone()])),
            Data::Lines(joined) => Some(Cow::Borrowed(joined)),
        }
    }
}

impl Frame {
    /// The event's data as its own value. It shares memory with the frame unless it was split over several lines.
    pub fn shared_data(&self) -> Option<Bytes> {
        match &self.data {
            Data::Absent => None,
            Data::Line(range) => Some(self.raw.slice(range.clone())),
            Data::Lines(joined) => Some(Bytes::copy_from_slice(joined)),
        }
    }
}

impl Data {
    fn with(self, raw: &[u8], line: Range<usize>) -> Self {
        let mut joined = match self {
            Self::Absent => return Self::Line(line),
            Self::Line(first) => raw[first].to_vec(),
            Self::Lines(joined) => joined,
        };
        joined.push(b'\n');
        joined.extend_from_slice(&raw[line]);
        Self::Lines(joined)
    }
}

/// The range of the field's value, after the colon and at most one space; `None` if the line has another field.
fn field(raw: &[u8], line: Range<usize>, name: &[u8]) -> Option<Range<usize>> {
    let rest = raw[line.clone()].strip_prefix(name)?;
    let value = match rest {
        [] => rest,
        [b':', b' ', value @ ..] | [b':', value @ ..] => value,
        _ => return None,
    };
    Some(line.end - value.len()..line.end)
}

// === impl Decoder ===

impl Decoder {
    pub fn new(max_frame_bytes: usize) -> Self {
        Self {
            max_frame_bytes,
            pending: BytesMut::new(),
            chunk: Bytes::new(),
            start: 0,
            scanned: 0,
            line_is_empty: true,
            after_cr: false,
            at_stream_start: true,
            has_ids: false,
        }
    }

    /// Adds the next chunk of the stream. All frames of the previous chunk must have been taken.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert_eq!(self.start, self.chunk.len(), "frames are left in the chunk before");
        self.chunk = chunk;
        self.start = 0;
        self.scanned = 0;
    }

    /// The chunk that [`Frame::span`] refers to.
    pub fn chunk(&self) -> &Bytes {
        &self.chunk
    }

    /// Whether a frame had an `id` or a `retry` line by now.
    pub fn has_ids(&self) -> bool {
        self.has_ids
    }

    /// How much it holds of a frame that has not come to its end.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// The next whole frame, or `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameTooLarge> {
        let end = self.find_frame_end();
        let upto = end.unwrap_or(self.chunk.len());
        if self.pending.len() + (upto - self.start) > self.max_frame_bytes {
            return Err(FrameTooLarge { max_bytes: self.max_frame_bytes });
        }
        let Some(end) = end else {
            self.pending.extend_from_slice(&self.chunk[self.start..]);
            self.start = upto;
            return Ok(None);
        };
        let span = self.start..end;
        self.start = end;
        Ok(Some(if self.pending.is_empty() {
            self.frame(self.chunk.slice(span.clone()), Some(span))
        } else {
            self.pending.extend_from_slice(&self.chunk[span]);
            let raw = self.pending.split().freeze();
            self.frame(raw, None)
        }))
    }

    /// At the end of the stream: the bytes after the last blank line, with the missing blank line added. The caller must
    /// decide whether the frame is complete.
    pub fn finish(&mut self) -> Option<Frame> {
        if self.pending.is_empty() {
            return None;
        }
        let mut raw = self.pending.split();
        // After a carriage return, the first line feed would belong to the end of its line.
        let ends_with_line = self.line_is_empty && !self.after_cr;
        raw.extend_from_slice(if ends_with_line { b"\n" } else { b"\n\n" });
        Some(self.frame(raw.freeze(), None))
    }

    fn frame(&mut self, raw: Bytes, span: Option<Range<usize>>) -> Frame {
        let frame = Frame::parse(raw, span, std::mem::take(&mut self.at_stream_start));
        self.has_ids |= frame.has_id;
        frame
    }

    /// Continues the search for a blank line, and returns its end.
    fn find_frame_end(&mut self) -> Option<usize> {
        while self.scanned < self.chunk.len() {
            let rest = &self.chunk[self.scanned..];
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                self.scanned += 1;
                continue;
            }
            let Some(n) = memchr2(b'\n', b'\r', rest) else {
                self.line_is_empty = false;
                self.scanned = self.chunk.len();
                return None;
            };
            let blank = self.line_is_empty && n == 0;
            self.after_cr = rest[n] == b'\r';
            self.line_is_empty = true;
            self.scanned += n + 1;
            if blank {
                if self.after_cr && self.chunk.get(self.scanned) == Some(&b'\n') {
                    self.after_cr = false;
                    self.scanned += 1;
                }
                return Some(self.scanned);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Event = (Option<Vec<u8>>, Vec<u8>);
    type Decoded = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Decoded> {
        let mut decoder = Decoder::new(1 << 20);
        let mut decoded = Vec::new();
        for chunk in chunks {
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(frame) = decoder.next_frame().unwrap() {
                if let Some(span) = &frame.span {
                    assert_eq!(decoder.chunk().slice(span.clone()), frame.raw);
                }
                decoded.push((
                    frame.raw.to_vec(),
                    frame.event().map(<[u8]>::to_vec),
                    frame.data().map(|data| data.to_vec()),
                ));
            }
        }
        decoded
    }

    /// Names and data of the frames that have data, which is what a client sees.
    fn events(decoded: &[Decoded]) -> Vec<Event> {
        decoded.iter().filter_map(|(_, event, data)| Some((event.clone(), data.clone()?))).collect()
    }

    fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<Event>)> {
        let line_end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
        let text = "[a-z{}: \"é]{0,8}";
        let frame =
            (prop::option::of("[a-z.]{1,8}"), prop::collection::vec(text, 1..4), any::<bool>(), line_end);
        (any::<bool>(), prop::collection::vec(frame, 0..6)).prop_map(|(bom, frames)| {
            let mut bytes = if bom { BOM.to_vec() } else { Vec::new() };
            let mut expected = Vec::new();
            for (name, lines, comment, end) in frames {
                if comment {
                    bytes.extend_from_slice(format!(": ping{end}").as_bytes());
                }
                if let Some(name) = &name {
                    bytes.extend_from_slice(format!("event: {name}{end}id: 7{end}").as_bytes());
                }
                for line in &lines {
                    bytes.extend_from_slice(format!("data: {line}{end}").as_bytes());
                }
                bytes.extend_from_slice(end.as_bytes());
                expected.push((name.map(String::into_bytes), lines.join("\n").into_bytes()));
            }
            (bytes, expected)
        })
    }

    proptest! {
        #[test]
        fn every_split_of_a_stream_yields_the_same_events_and_every_byte(
            (bytes, expected) in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let decoded = decode(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
            prop_assert_eq!(events(&decoded), expected);
            let raw: Vec<u8> = decoded.iter().flat_map(|(raw, ..)| raw.clone()).collect();
            // What is left over: a line feed after the last carriage return, or a byte order mark alone.
            let left = &bytes[raw.len()..];
            prop_assert!(bytes.starts_with(&raw) && (left.is_empty() || left == b"\n" || left == BOM));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic_or_lose_any(chunks in prop::collection::vec(
            prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), any::<u8>()], 0..12), 0..8,
        )) {
            let mut decoder = Decoder::new(1 << 20);
            let mut raw = Vec::new();
            for chunk in &chunks {
                decoder.push(Bytes::copy_from_slice(chunk));
                while let Some(frame) = decoder.next_frame().unwrap() {
                    raw.extend_from_slice(&frame.raw);
                }
            }
            raw.extend_from_slice(&decoder.pending);
            prop_assert_eq!(raw, chunks.concat());
        }
    }

    #[test]
    fn every_split_of_a_mixed_stream_yields_the_same_events() {
        let bytes = b"\xef\xbb\xbfevent: a\r\ndata: 1\r\ndata: 2\r\n\r\n: c\n\ndata:3\n\nevent\rdata: 4\r\rdata: 5\n\n";
        let whole = events(&decode([&bytes[..]]));
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[0], (Some(b"a".to_vec()), b"1\n2".to_vec()));
        for cut in 0..=bytes.len() {
            assert_eq!(events(&decode([&bytes[..cut], &bytes[cut..]])), whole, "cut at {cut}");
        }
        assert_eq!(events(&decode(bytes.chunks(1))), whole);
    }

    #[test]
    fn a_frame_over_the_limit_is_rejected_before_it_is_buffered() {
        let mut decoder = Decoder::new(16);
        decoder.push(Bytes::from_static(b"data: 0123456"));
        assert!(decoder.next_frame().unwrap().is_none());
        decoder.push(Bytes::from_static(b"789\n\n"));
        assert_eq!(decoder.next_frame().unwrap_err(), FrameTooLarge { max_bytes: 16 });
    }

    #[test]
    fn an_unfinished_frame_is_returned_at_the_end() {
        for tail in ["data: {}", "data: {}\n", "data: {}\r\n", "data: {}\r"] {
            let mut decoder = Decoder::new(64);
            decoder.push(Bytes::from(tail));
            assert!(decoder.next_frame().unwrap().is_none());
            let frame = decoder.finish().unwrap();
            assert_eq!(frame.data().unwrap().as_ref(), b"{}");
            let followed = [&frame.raw[..], b"data: next\n\n"].concat();
            let datas: Vec<_> = events(&decode([&followed[..]])).into_iter().map(|(_, data)| data).collect();
            assert_eq!(datas, [&b"{}"[..], b"next"], "after {tail:?}");
            assert!(decoder.finish().is_none());
        }
    }
}
