//! A request body made of parts that share memory with others.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

/// Small parts are joined up to this size: one write is cheaper than many slices.
const FRAME_BYTES: usize = 64 * 1024;
/// A part of this size is not copied.
const LARGE_PART_BYTES: usize = 16 * 1024;

/// Sends parts one after the other, with a known length. A clone shares the parts and can be sent again.
#[derive(Debug, Clone)]
pub struct PartsBody {
    parts: Arc<[Bytes]>,
    /// How many parts were sent.
    sent: usize,
    remaining: u64,
}

impl PartsBody {
    pub fn new(parts: Vec<Bytes>) -> Self {
        let remaining = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts: parts.into(), sent: 0, remaining }
    }

    /// How many bytes were not sent yet.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The next parts, and `None` after the last.
    pub fn next_frame(&mut self) -> Option<Bytes> {
        let frame = self.join_parts()?;
        self.remaining -= frame.len() as u64;
        Some(frame)
    }

    fn join_parts(&mut self) -> Option<Bytes> {
        let unsent = &self.parts[self.sent..];
        let (first, others) = unsent.split_first()?;
        self.sent += 1;
        if first.len() >= LARGE_PART_BYTES || others.is_empty() {
            return Some(first.clone());
        }
        let mut frame =
            BytesMut::with_capacity(FRAME_BYTES.min(usize::try_from(self.remaining).unwrap_or(FRAME_BYTES)));
        frame.extend_from_slice(first);
        for part in others {
            if part.len() >= LARGE_PART_BYTES || frame.len() + part.len() > FRAME_BYTES {
                break;
            }
            frame.extend_from_slice(part);
            self.sent += 1;
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
        Poll::Ready(self.next_frame().map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.parts.len()
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
