//! Reads a WebSocket's bytes: never more of a message than memory is reserved for, and never beyond its end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use antiphon_protocol::frame::{FrameSplitter, MAX_HEADER_BYTES, MAX_PIECE_BYTES, Step};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::body_memory::{NoMemory, Reservation, Share};
use crate::http::app_state::BodyLimits;
use crate::http::error::RequestError;
use crate::http::pace::Pace;

/// How much memory is reserved for a message: at first, and at most before as much has arrived.
const MIN_STEP_BYTES: usize = MAX_PIECE_BYTES as usize;
const MAX_STEP_BYTES: usize = 256 * 1024;
const DISCARDED_BYTES: usize = 16 * 1024;

/// Yields the message's memory, and how long it may still wait for more.
type Reserving = Pin<Box<dyn Future<Output = (Result<Reservation, NoMemory>, Duration)> + Send>>;

/// Reads frame by frame, so that the decoder buffers nothing between two messages. Large frames are split, so that the
/// decoder reserves little in advance. Reserves memory for each message as it arrives, as for the body of an HTTP request.
pub struct Metered<S> {
    stream: S,
    /// Bytes that arrived with the handshake.
    early: Bytes,
    limits: Arc<BodyLimits>,
    splitter: FrameSplitter,
    /// The message so far, earlier frames included.
    message_bytes: usize,
    memory: Reservation,
    reserving: Option<Reserving>,
    /// How long the message may still wait for memory.
    patience: Duration,
    pace: Pace,
    /// Set while a client is waited for in the middle of a message.
    waiting: Option<Waiting>,
}

struct Waiting {
    since: Instant,
    limit: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + Unpin> Metered<S> {
    pub fn new(stream: S, early: Bytes, limits: Arc<BodyLimits>, share: &Arc<Share>) -> Self {
        Self {
            stream,
            early,
            splitter: FrameSplitter::new(limits.max_bytes),
            message_bytes: 0,
            memory: Reservation::empty(share),
            reserving: None,
            patience: limits.read_timeout,
            pace: Pace::new(limits.read_timeout),
            waiting: None,
            limits,
        }
    }

    /// The memory of the message that has just been read to its end.
    pub fn take_memory(&mut self) -> Reservation {
        self.memory.shrink_to(self.message_bytes);
        self.message_bytes = 0;
        self.memory.take()
    }

    /// Whether nothing of a message has been read.
    pub fn is_between_messages(&self) -> bool {
        self.splitter.is_between_messages()
    }

    /// Discards what arrives, until nothing has arrived for this long.
    pub async fn discard(&mut self, silence: Duration) {
        let mut piece = vec![0; DISCARDED_BYTES];
        while let Ok(Ok(1..)) = tokio::time::timeout(silence, self.stream.read(&mut piece)).await {}
    }

    /// Reads so many bytes of a header. `false` at the end of the stream.
    fn poll_header(&mut self, cx: &mut Context<'_>, count: usize) -> Poll<io::Result<bool>> {
        let mut bytes = [0; MAX_HEADER_BYTES];
        let read = ready!(self.poll_bytes(cx, &mut bytes[..count]))?;
        self.pace_of(0);
        Poll::Ready(match read {
            0 => Ok(false),
            _ => self.splitter.push_header(&bytes[..read]).map(|()| true).map_err(io::Error::other),
        })
    }

    /// Reads up to so many bytes of a payload.
    fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
        count: usize,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_data = self.splitter.is_data();
        let allowed = if is_data { ready!(self.poll_allowance(cx))? } else { count };
        let count = count.min(allowed).min(buf.remaining());
        let read = ready!(self.poll_bytes(cx, buf.initialize_unfilled_to(count)))?;
        buf.advance(read);
        self.splitter.payload_passed(read);
        // Only a message has a rate: pings do not pay for it.
        let counted = if is_data { read } else { 0 };
        self.message_bytes += counted;
        self.pace_of(counted);
        Poll::Ready(Ok(()))
    }

    /// How much of the payload memory is reserved for.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let left = usize::try_from(self.splitter.payload_left()).unwrap_or(usize::MAX);
        if self.message_bytes.saturating_add(left) > self.limits.max_bytes {
            let max_bytes = self.limits.max_bytes;
            return Poll::Ready(Err(rejected(RequestError::BodyTooLarge { max_bytes })));
        }
        if self.reserving.is_some() || self.memory.bytes() == self.message_bytes {
            let step = left.min(self.message_bytes.clamp(MIN_STEP_BYTES, MAX_STEP_BYTES));
            ready!(self.poll_reserve(cx, step))?;
        }
        Poll::Ready(Ok(self.memory.bytes() - self.message_bytes))
    }

    fn poll_reserve(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<()>> {
        if self.reserving.is_none() && self.memory.try_grow(bytes) {
            return Poll::Ready(Ok(()));
        }
        let (memory, mut patience) = (&mut self.memory, self.patience);
        let reserving = self.reserving.get_or_insert_with(|| {
            let mut memory = memory.take();
            Box::pin(async move {
                let grown = memory.grow(bytes, &mut patience).await;
                (grown.map(|()| memory), patience)
            })
        });
        let (reserved, patience) = ready!(reserving.as_mut().poll(cx));
        self.reserving = None;
        self.patience = patience;
        self.memory = reserved.map_err(|error| rejected(error.into()))?;
        Poll::Ready(Ok(()))
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
            Poll::Ready(read) => Poll::Ready(read.map(|()| buffer.filled().len())),
            Poll::Pending if self.is_between_messages() => Poll::Pending,
            Poll::Pending => {
                let waiting = self.waiting.get_or_insert_with(|| Waiting {
                    since: Instant::now(),
                    limit: Box::pin(tokio::time::sleep(self.pace.left())),
                });
                ready!(waiting.limit.as_mut().poll(cx));
                Poll::Ready(Err(rejected(self.pace.too_slow())))
            }
        }
    }

    /// Counts bytes of a message that have arrived, and the wait for them.
    fn pace_of(&mut self, bytes: usize) {
        let waited = self.waiting.take().map_or(Duration::ZERO, |waiting| waiting.since.elapsed());
        self.pace.count(bytes, waited);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match this.splitter.step() {
                Step::ReadHeader(count) => {
                    if this.is_between_messages() {
                        this.patience = this.limits.read_timeout;
                        this.pace = Pace::new(this.patience);
                    }
                    if !ready!(this.poll_header(cx, count))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Step::PassHeader(header) => {
                    let count = header.len().min(buf.remaining());
                    buf.put_slice(&header[..count]);
                    this.splitter.header_passed(count);
                    return Poll::Ready(Ok(()));
                }
                Step::PassPayload(count) => return this.poll_payload(cx, count, buf),
            }
        }
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
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::body_memory::{BodyMemory, Tenant};

    fn limits(memory_bytes: usize) -> Arc<BodyLimits> {
        Arc::new(BodyLimits {
            max_bytes: 1 << 20,
            read_timeout: Duration::from_secs(30),
            memory: Arc::new(BodyMemory::new(memory_bytes, memory_bytes)),
        })
    }

    fn metered<S: AsyncRead + Unpin>(stream: S, early: &[u8], limits: &Arc<BodyLimits>) -> Metered<S> {
        let share = limits.memory.share(Tenant::Operators);
        Metered::new(stream, Bytes::copy_from_slice(early), Arc::clone(limits), &share)
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
                [frame(0x01, 5), frame(0x89, 0), frame(0x80, 126), frame(0x81, 4_000), frame(0x88, 2)];
            let bytes = frames.concat();
            let (early, rest) = bytes.split_at(early.min(bytes.len()));
            let mut metered = metered(rest, early, &limits(100_000));
            for frame in &frames {
                let mut seen = Vec::new();
                while seen.len() < frame.len() {
                    let mut piece = vec![0; 100_000];
                    let read = metered.read(&mut piece).await.unwrap();
                    seen.extend_from_slice(&piece[..read]);
                }
                assert_eq!(&seen, frame);
            }
            assert_eq!(metered.take_memory().bytes(), 5 + 126 + 4_000);
            assert!(metered.is_between_messages());
            assert_eq!(metered.read(&mut [0; 10]).await.unwrap(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_reserved_in_steps_with_a_timeout() {
        let bytes = frame(0x81, 600_000);
        let limits = limits(300_000);
        let mut metered = metered(bytes.as_slice(), &[], &limits);
        let mut seen = Vec::new();
        let error = metered.read_to_end(&mut seen).await.unwrap_err();
        let Ok(MessageRejected(RequestError::Overloaded(NoMemory::Share(_)))) = error.downcast() else {
            panic!()
        };
        assert!((MAX_STEP_BYTES..300_000).contains(&seen.len()), "{}", seen.len());
        drop(metered);
        assert_eq!(limits.memory.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_too_large_message_is_rejected_unread() {
        let pieces = [frame(0x01, 600_000), frame(0x80, 600_000)].concat();
        let mut metered = metered(pieces.as_slice(), &[], &limits(10_000_000));
        let mut seen = Vec::new();
        let error = metered.read_to_end(&mut seen).await.unwrap_err();
        assert!(matches!(
            error.downcast::<MessageRejected>(),
            Ok(MessageRejected(RequestError::BodyTooLarge { .. }))
        ));
        let headers = 4 * 600_000_usize.div_ceil(MIN_STEP_BYTES) + 4;
        assert_eq!(seen.len(), 600_000 + headers);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_message_is_rejected_and_pings_do_not_help() {
        let (stream, mut client) = tokio::io::duplex(1 << 20);
        let mut metered = metered(stream, &[], &limits(10_000_000));
        let sending = async move {
            client.write_all(&frame(0x01, 100_000)).await.unwrap();
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(5)).await;
                client.write_all(&frame(0x89, 125)).await.ok();
                client.write_all(&frame(0x00, 1)).await.ok();
            }
        };
        let mut seen = Vec::new();
        let (error, ()) = tokio::join!(metered.read_to_end(&mut seen), sending);
        let Ok(MessageRejected(RequestError::BodyTimeout { received_bytes, .. })) =
            error.unwrap_err().downcast()
        else {
            panic!()
        };
        assert!((100_000..100_010).contains(&received_bytes), "{received_bytes}");
    }
}
