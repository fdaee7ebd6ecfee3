//! A request body made of parts that stay where they are.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

/// Small parts are put together up to this size: one write is cheaper than many slices.
const FRAME_BYTES: usize = 64 * 1024;
/// A part of this size goes out as it is.
const LARGE_PART_BYTES: usize = 16 * 1024;

/// Sends parts one after the other; its length is known.
#[derive(Debug)]
pub struct PartsBody {
    parts: VecDeque<Bytes>,
    remaining: u64,
}

impl PartsBody {
    pub fn new(parts: Vec<Bytes>) -> Self {
        let remaining = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts: parts.into(), remaining }
    }

    fn next_frame(&mut self) -> Option<Bytes> {
        let first = self.parts.pop_front()?;
        if first.len() >= LARGE_PART_BYTES || self.parts.is_empty() {
            return Some(first);
        }
        let mut frame =
            BytesMut::with_capacity(FRAME_BYTES.min(usize::try_from(self.remaining).unwrap_or(FRAME_BYTES)));
        frame.extend_from_slice(&first);
        while let Some(part) = self
            .parts
            .pop_front_if(|part| part.len() < LARGE_PART_BYTES && frame.len() + part.len() <= FRAME_BYTES)
        {
            frame.extend_from_slice(&part);
        }
        Some(frame.freeze())
    }
}

impl Body for PartsBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.next_frame();
        self.remaining -= frame.as_ref().map_or(0, |frame| frame.len() as u64);
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_sent_once_and_in_order() {
        let large: Bytes = (0..40_000).map(|n: u32| n.to_le_bytes()[0]).collect::<Vec<_>>().into();
        let parts: Vec<Bytes> = (0..3000_u16)
            .flat_map(|n| {
                [
                    Bytes::copy_from_slice(&n.to_le_bytes()),
                    if n % 700 == 0 { large.clone() } else { Bytes::new() },
                ]
            })
            .collect();
        let expected = parts.concat();
        let mut body = PartsBody::new(parts);
        assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
        let mut sent = Vec::new();
        while let Some(frame) = body.next_frame() {
            assert!(frame.len() <= FRAME_BYTES);
            sent.extend_from_slice(&frame);
        }
        assert_eq!(sent, expected);
        assert!(body.is_end_stream());
    }
}
