//! The TCP connection below TLS and HTTP. It records whether any of a request was written.

use std::io::{self, ErrorKind, IoSlice, Read as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;

/// An idle TLS connection may receive a few session tickets, and nothing else is expected.
const PROBE_BYTES: usize = 1024;

pub struct Wire {
    tcp: TokioIo<TcpStream>,
    log: Arc<WireLog>,
}

/// Shared by a wire and the owner of its connection.
#[derive(Debug, Default)]
pub struct WireLog {
    has_written: AtomicBool,
    probe_requested: AtomicBool,
}

// === impl WireLog ===

impl WireLog {
    /// Starts counting for the next request.
    pub fn begin_request(&self) {
        self.has_written.store(false, Ordering::Relaxed);
    }

    /// Whether any byte has been written to the socket since the request began.
    pub fn has_written(&self) -> bool {
        self.has_written.load(Ordering::Relaxed)
    }

    /// Makes the next read ask the socket itself, because the runtime may not know yet that the peer has closed it.
    pub fn probe(&self) {
        self.probe_requested.store(true, Ordering::Relaxed);
    }
}

// === impl Wire ===

impl Wire {
    pub fn new(tcp: TokioIo<TcpStream>) -> Self {
        Self { tcp, log: Arc::default() }
    }

    pub fn log(&self) -> &Arc<WireLog> {
        &self.log
    }

    fn record_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            self.log.has_written.store(true, Ordering::Relaxed);
        }
        written
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        self.tcp.connected()
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.log.probe_requested.load(Ordering::Relaxed) {
            self.log.probe_requested.store(false, Ordering::Relaxed);
            let mut bytes = [0; PROBE_BYTES];
            let room = buf.remaining().min(PROBE_BYTES);
            match (&mut &*SockRef::from(self.tcp.inner())).read(&mut bytes[..room]) {
                Ok(count) => {
                    buf.put_slice(&bytes[..count]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.record_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.record_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
