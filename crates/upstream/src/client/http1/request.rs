//! A request on its way to the upstream.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::Request;
use hyper::rt::Write;

use super::head;
use crate::client::parts::PartsBody;

/// What one write and one poll may take. The system copies as much as it is given while the upstream reads as fast.
const WRITE_BYTES: usize = 256 * 1024;
const POLL_BYTES: usize = 1024 * 1024;

/// What has not been written yet.
pub struct Unwritten {
    head: Bytes,
    frame: Bytes,
    body: PartsBody,
}

impl Unwritten {
    pub fn new(request: Request<PartsBody>) -> Self {
        let head = head::encode(&request);
        Self { head, frame: Bytes::new(), body: request.into_body() }
    }

    /// Ready when everything has been written and flushed. A long request lets other tasks run in between.
    pub fn poll_write(
        &mut self,
        stream: &mut (impl Write + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut written = 0;
        loop {
            while self.frame.is_empty() && self.body.remaining() > 0 {
                self.frame = self.body.next_frame().unwrap_or_default();
            }
            if self.head.is_empty() && self.frame.is_empty() {
                return Pin::new(stream).poll_flush(cx);
            }
            if written >= POLL_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let frame = &self.frame[..self.frame.len().min(WRITE_BYTES)];
            let parts = [IoSlice::new(&self.head), IoSlice::new(frame)];
            let parts = if self.head.is_empty() { &parts[1..] } else { &parts[..] };
            let count = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, parts))?;
            if count == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            written += count;
            let of_head = count.min(self.head.len());
            self.head.advance(of_head);
            self.frame.advance(count - of_head);
        }
    }
}
