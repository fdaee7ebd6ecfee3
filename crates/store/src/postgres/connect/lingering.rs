//! A stream for the request to cancel a query, which is closed after the server has closed it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Waits for the server to close the connection before it shuts it down. PgBouncer 1.18 dies of a client that leaves before
/// it has passed on the request.
pub(super) struct Lingering<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ignored = [0; 64];
        loop {
            let mut read = ReadBuf::new(&mut ignored);
            match ready!(Pin::new(&mut self.0).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {}
                _ => return Pin::new(&mut self.0).poll_shutdown(cx),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_client_closes_after_the_server() {
        let (client, mut server) = tokio::io::duplex(64);
        let mut client = Lingering(client);
        client.write_all(b"cancel").await.unwrap();
        let mut closing = tokio::spawn(async move { client.shutdown().await });
        server.read_exact(&mut [0; 6]).await.unwrap();
        server.write_all(b"more").await.unwrap();
        tokio::task::yield_now().await;
        assert!(!closing.is_finished());
        server.shutdown().await.unwrap();
        (&mut closing).await.unwrap().unwrap();
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
