//! Passes an upstream's frames to their decoder in small pieces and one frame at a time: the decoder's buffer stays small, and
//! is empty between two frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use antiphon_protocol::frame::{FrameSplitter, Step};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};

const BUFFER_BYTES: usize = 8 * 1024;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A connection that begins with the head of a reply over HTTP; frames follow it.
pub struct SplitFrames<S> {
    stream: BufReader<S>,
    /// How much of the end of the head has been read.
    head_end: usize,
    splitter: FrameSplitter,
    /// Whether a write may fail without ending what can be read.
    is_reading: bool,
    has_lost_writes: bool,
}

// === impl SplitFrames ===

impl<S: AsyncRead + Unpin> SplitFrames<S> {
    pub fn new(stream: S, max_frame_bytes: usize) -> Self {
        let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        let splitter = FrameSplitter::new(max_frame_bytes);
        Self { stream, head_end: 0, splitter, is_reading: false, has_lost_writes: false }
    }

    /// While the peer's messages are read, the answer to a ping may be lost: a peer that has closed already may have sent all of
    /// its messages before.
    pub fn set_reading(&mut self, is_reading: bool) {
        self.is_reading = is_reading;
    }

    pub fn has_lost_writes(&self) -> bool {
        self.has_lost_writes
    }

    /// What follows the head, if no frames do.
    pub fn into_rest(self) -> impl AsyncRead + Unpin {
        self.stream
    }

    /// What became of a write: while messages are read, one that fails seems to succeed.
    fn or_lost<T>(&mut self, written: Poll<io::Result<T>>, success: T) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Err(_)) if self.is_reading => {
                self.has_lost_writes = true;
                Poll::Ready(Ok(success))
            }
            written => written,
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let arrived = ready!(Pin::new(&mut self.stream).poll_fill_buf(cx))?;
        let mut count = 0;
        while self.head_end < HEAD_END.len() && count < arrived.len().min(buf.remaining()) {
            let byte = arrived[count];
            count += 1;
            self.head_end = match byte {
                _ if byte == HEAD_END[self.head_end] => self.head_end + 1,
                b'\r' => 1,
                _ => 0,
            };
        }
        buf.put_slice(&arrived[..count]);
        Pin::new(&mut self.stream).consume(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SplitFrames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.head_end < HEAD_END.len() {
            return this.poll_head(cx, buf);
        }
        loop {
            let count = match this.splitter.step() {
                Step::PassHeader(header) => {
                    let count = header.len().min(buf.remaining());
                    buf.put_slice(&header[..count]);
                    this.splitter.header_passed(count);
                    return Poll::Ready(Ok(()));
                }
                Step::ReadHeader(count) | Step::PassPayload(count) => count,
            };
            let is_header = matches!(this.splitter.step(), Step::ReadHeader(_));
            let arrived = ready!(Pin::new(&mut this.stream).poll_fill_buf(cx))?;
            if arrived.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let count = count.min(arrived.len());
            if is_header {
                this.splitter.push_header(&arrived[..count]).map_err(io::Error::other)?;
                Pin::new(&mut this.stream).consume(count);
            } else {
                let count = count.min(buf.remaining());
                buf.put_slice(&arrived[..count]);
                this.splitter.payload_passed(count);
                Pin::new(&mut this.stream).consume(count);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SplitFrames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.or_lost(written, buf.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.or_lost(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::io::AsyncReadExt;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn what_came_before_a_ping_that_cannot_be_answered_is_read_and_what_came_after_it() {
        let head = b"HTTP/1.1 101 \r\n\r\n";
        let ping = [0x89, 0];
        let frames = [&ping[..], &ping, &[0x81, 1, b'a'], &ping, &ping, &[0x81, 1, b'b']].concat();
        let stream = [&head[..], &frames].concat();
        let (closed, peer) = tokio::io::duplex(1);
        drop(peer);
        let mut split = SplitFrames::new(tokio::io::join(&stream[..], closed), 1 << 20);
        split.read_exact(&mut [0; 17]).await.unwrap();
        split.set_reading(true);
        let mut wire = WebSocketStream::from_raw_socket(split, Role::Client, None).await;
        let mut texts = Vec::new();
        while let Some(Ok(message)) = wire.next().await {
            if let Message::Text(text) = message {
                texts.push(text.to_string());
            }
        }
        assert_eq!(texts, ["a", "b"]);
        assert!(wire.get_ref().has_lost_writes());
    }

    #[tokio::test]
    async fn frames_after_the_head_come_in_small_pieces_and_one_at_a_time() {
        let head = b"HTTP/1.1 101 \r\na: b\r\n\r\n";
        let large = [&[0x81, 127, 0, 0, 0, 0, 0, 0, 0x13, 0x88][..], &[b'x'; 5_000]].concat();
        let stream = [&head[..], &large, &[0x89, 0], &[0x81, 1, b'y']].concat();
        let mut split = SplitFrames::new(&stream[..], 1 << 20);
        let mut reads = Vec::new();
        loop {
            let mut piece = vec![0; 6_000];
            match split.read(&mut piece).await.unwrap() {
                0 => break,
                count => reads.push(piece[..count].to_vec()),
            }
        }
        assert_eq!(reads.remove(0), head);
        let expected = [
            &[0x01, 126, 0x10, 0][..],
            &[b'x'; 4_096],
            &[0x80, 126, 0x03, 0x88],
            &[b'x'; 904],
            &[0x89, 0],
            &[0x81, 1],
            b"y",
        ];
        assert_eq!(reads.concat(), expected.concat());
        for frame in [&[0x89, 0][..], &[0x81, 1]] {
            assert!(reads.iter().any(|read| read == frame), "a read ends with its frame");
        }
    }

    #[tokio::test]
    async fn the_end_of_the_head_is_found_however_it_arrives() {
        let stream = b"HTTP/1.1 101 x\r\n\r\r\n\r\n\x81\x01y";
        let mut split = SplitFrames::new(&stream[..], 1 << 20);
        let mut seen = Vec::new();
        while let Ok(byte) = split.read_u8().await {
            seen.push(byte);
        }
        assert_eq!(seen, stream);
    }
}
