//! Reads a WebSocket's bytes: never more of a message than memory is reserved for, and never beyond its end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::http::app_state::BodyLimits;
use crate::http::error::RequestError;

/// Two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;
/// How much memory is reserved for a message at a time.
const STEP_BYTES: usize = 256 * 1024;
const DISCARDED_BYTES: usize = 16 * 1024;

type Reserving = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, RequestError>> + Send>>;

/// Reads frame by frame, so that the decoder buffers nothing between two messages. Reserves memory for each message as it
/// arrives, as for the body of an HTTP request.
pub struct Metered<S> {
    stream: S,
    /// Bytes that arrived with the handshake.
    early: Bytes,
    limits: Arc<BodyLimits>,
    header: [u8; MAX_HEADER],
    header_len: usize,
    /// How much of the complete header has been passed on; the payload follows it.
    header_given: usize,
    /// What is left of the frame's payload.
    left: u64,
    is_data: bool,
    /// The message so far, earlier frames included.
    message_bytes: usize,
    permit: Option<OwnedSemaphorePermit>,
    reserving: Option<Reserving>,
    /// Limits the silence in the middle of a message.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> Metered<S> {
    pub fn new(stream: S, early: Bytes, limits: Arc<BodyLimits>) -> Self {
        Self {
            stream,
            early,
            limits,
            header: [0; MAX_HEADER],
            header_len: 0,
            header_given: 0,
            left: 0,
            is_data: false,
            message_bytes: 0,
            permit: None,
            reserving: None,
            patience: None,
        }
    }

    /// The memory of the message that has just been read to its end.
    pub fn take_permit(&mut self) -> OwnedSemaphorePermit {
        self.message_bytes = 0;
        self.permit.take().unwrap_or_else(|| self.no_memory())
    }

    /// Whether nothing of a message has been read.
    pub fn is_between_messages(&self) -> bool {
        self.header_len == 0 && self.left == 0 && self.message_bytes == 0
    }

    /// Discards what arrives, until nothing has arrived for this long.
    pub async fn discard(&mut self, silence: Duration) {
        let mut piece = vec![0; DISCARDED_BYTES];
        while let Ok(Ok(1..)) = tokio::time::timeout(silence, self.stream.read(&mut piece)).await {}
    }

    fn no_memory(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.limits.memory).try_acquire_many_owned(0).expect("acquiring zero permits never fails")
    }

    /// Reads the header to its end. `false` at the end of the stream.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let needed = header_len(&self.header[..self.header_len]);
            if self.header_len == needed {
                self.begin_frame();
                return Poll::Ready(Ok(true));
            }
            let mut rest = [0; MAX_HEADER];
            let rest = &mut rest[..needed - self.header_len];
            let read = ready!(self.poll_bytes(cx, rest))?;
            if read == 0 {
                return Poll::Ready(Ok(false));
            }
            self.header[self.header_len..self.header_len + read].copy_from_slice(&rest[..read]);
            self.header_len += read;
        }
    }

    fn begin_frame(&mut self) {
        let [first, second, rest @ ..] = self.header;
        self.is_data = first & 0x08 == 0;
        self.left = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([rest[0], rest[1]])),
            127 => {
                u64::from_be_bytes([rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6], rest[7]])
            }
            short => u64::from(short),
        };
        self.header_given = 0;
    }

    /// How much of the payload memory is reserved for.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        if !self.is_data {
            return Poll::Ready(Ok(left));
        }
        if self.message_bytes.saturating_add(left) > self.limits.max_bytes {
            return Poll::Ready(Err(rejected(RequestError::BodyTooLarge {
                max_bytes: self.limits.max_bytes,
            })));
        }
        let covered = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * 1024;
        if covered > self.message_bytes {
            return Poll::Ready(Ok(left.min(covered - self.message_bytes)));
        }
        let step = left.min(STEP_BYTES);
        let more = ready!(self.poll_reserve(cx, step))?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Poll::Ready(Ok(step))
    }

    fn poll_reserve(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<OwnedSemaphorePermit>> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        if self.reserving.is_none()
            && let Ok(permit) = Semaphore::try_acquire_many_owned(Arc::clone(&self.limits.memory), kib)
        {
            return Poll::Ready(Ok(permit));
        }
        let limits = &self.limits;
        let reserving = self.reserving.get_or_insert_with(|| {
            let limits = Arc::clone(limits);
            Box::pin(async move { limits.reserve(bytes).await })
        });
        let reserved = ready!(reserving.as_mut().poll(cx));
        self.reserving = None;
        Poll::Ready(reserved.map_err(rejected))
    }

    /// Reads what has arrived. In the middle of a message, the wait for more is limited.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(into.len());
            self.early.copy_to_slice(&mut into[..count]);
            return Poll::Ready(Ok(count));
        }
        let mut buffer = ReadBuf::new(into);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(read) => {
                self.patience = None;
                Poll::Ready(read.map(|()| buffer.filled().len()))
            }
            Poll::Pending if self.is_between_messages() => Poll::Pending,
            Poll::Pending => {
                let limit = self.limits.read_timeout;
                let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                ready!(patience.as_mut().poll(cx));
                Poll::Ready(Err(rejected(RequestError::BodyTimeout(limit))))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.left == 0 && this.header_given == 0 && !ready!(this.poll_header(cx))? {
            return Poll::Ready(Ok(()));
        }
        if this.header_given < this.header_len {
            let rest = &this.header[this.header_given..this.header_len];
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            this.header_given += count;
        } else {
            let allowed = ready!(this.poll_allowance(cx))?.min(buf.remaining());
            let read = ready!(this.poll_bytes(cx, buf.initialize_unfilled_to(allowed)))?;
            buf.advance(read);
            this.left -= read as u64;
            if this.is_data {
                this.message_bytes += read;
            }
        }
        if this.left == 0 && this.header_given == this.header_len {
            this.header_len = 0;
            this.header_given = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The length of the header, as far as its first bytes tell it.
fn header_len(begun: &[u8]) -> usize {
    let Some(second) = begun.get(1) else { return 2 };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 == 0 { 0 } else { 4 }
}

/// Why a message was rejected, wrapped so that it passes the decoder as an I/O error.
fn rejected(error: RequestError) -> io::Error {
    io::Error::other(MessageRejected(error))
}

/// A message was rejected; the client gets the error before the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("message rejected before it was read completely: {0:?}")]
pub struct MessageRejected(pub RequestError);

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(memory_kib: usize) -> Arc<BodyLimits> {
        Arc::new(BodyLimits {
            max_bytes: 1 << 20,
            read_timeout: Duration::from_secs(30),
            memory: Arc::new(Semaphore::new(memory_kib)),
        })
    }

    /// A frame without a mask: its header, and this many bytes.
    fn frame(first: u8, len: usize) -> Vec<u8> {
        let mut frame = match len {
            0..126 => vec![first, u8::try_from(len).unwrap()],
            126..65_536 => [&[first, 126][..], &u16::try_from(len).unwrap().to_be_bytes()].concat(),
            _ => [&[first, 127][..], &(len as u64).to_be_bytes()].concat(),
        };
        frame.resize(frame.len() + len, b'x');
        frame
    }

    #[tokio::test]
    async fn reads_yield_every_byte_and_never_span_two_frames() {
        for early in [0, 1, 7, 200_000] {
            let frames =
                [frame(0x01, 5), frame(0x89, 0), frame(0x80, 126), frame(0x81, 70_000), frame(0x88, 2)];
            let bytes = frames.concat();
            let early = bytes[..early.min(bytes.len())].to_vec();
            let rest = &bytes[early.len()..];
            let mut metered = Metered::new(rest, early.into(), limits(100));
            for frame in &frames {
                let mut seen = Vec::new();
                while seen.len() < frame.len() {
                    let mut piece = vec![0; 100_000];
                    let read = metered.read(&mut piece).await.unwrap();
                    seen.extend_from_slice(&piece[..read]);
                }
                assert_eq!(&seen, frame);
            }
            // A KiB for the two small pieces together, and what is missing for the large one.
            let kib = metered.take_permit().num_permits();
            assert!((69..=72).contains(&kib), "{kib}");
            assert!(metered.is_between_messages());
            assert_eq!(metered.read(&mut [0; 10]).await.unwrap(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_reserved_in_steps_with_a_timeout() {
        let bytes = frame(0x81, 600_000);
        let limits = limits(300);
        let mut metered = Metered::new(bytes.as_slice(), Bytes::new(), Arc::clone(&limits));
        let mut seen = Vec::new();
        let error = metered.read_to_end(&mut seen).await.unwrap_err();
        assert!(matches!(error.downcast::<MessageRejected>(), Ok(MessageRejected(RequestError::Overloaded))));
        assert_eq!(seen.len(), 10 + STEP_BYTES);
        drop(metered);
        assert_eq!(limits.memory.available_permits(), 300);
    }

    #[tokio::test]
    async fn a_too_large_message_is_rejected_unread() {
        let pieces = [frame(0x01, 600_000), frame(0x80, 600_000)].concat();
        let mut metered = Metered::new(pieces.as_slice(), Bytes::new(), limits(10_000));
        let mut seen = Vec::new();
        let error = metered.read_to_end(&mut seen).await.unwrap_err();
        assert!(matches!(
            error.downcast::<MessageRejected>(),
            Ok(MessageRejected(RequestError::BodyTooLarge { .. }))
        ));
        assert_eq!(seen.len(), 10 + 600_000 + 10);
    }
}
