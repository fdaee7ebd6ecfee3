//! Reads a request's body within its limits and decompresses it.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::fairness::Fairness;
use antiphon_runtime::offload::offload;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::app_state::BodyLimits;
use super::error::RequestError;
use super::pace::Pace;
use crate::body_memory::{Reservation, Share};
use crate::decompression::{Decompressed, Decompression};

/// How much memory is reserved at most before as much has arrived.
const MAX_STEP_BYTES: usize = 256 * 1024;
/// More than this is copied on a blocking thread where a body grows.
const MAX_COPIED_BYTES: usize = 2 * 1024 * 1024;
/// How much of a rejected body is read before the error is sent: most clients read no reply before they have sent
/// everything.
const MAX_DISCARDED_BYTES: usize = 256 * 1024 * 1024;
const MAX_DISCARDING: Duration = Duration::from_secs(20);

/// A whole body and the memory reserved for it.
pub struct Received {
    pub bytes: Bytes,
    pub memory: Reservation,
}

/// Reads one body.
struct Reader<'a> {
    limits: &'a BodyLimits,
    memory: Reservation,
    pace: Pace,
    /// How long it may still wait for memory.
    patience: Duration,
}

enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl BodyLimits {
    /// Reads a body to its end. Reserves memory of the share as the body arrives, and waits while none is left.
    pub async fn receive(
        &self,
        headers: &HeaderMap,
        mut body: Body,
        share: &Arc<Share>,
    ) -> Result<Received, RequestError> {
        let (encoding, announced) = match self.check(headers) {
            Ok(checked) => checked,
            Err(error) => {
                discard_unread(headers, body).await;
                return Err(error);
            }
        };
        let mut reader = Reader {
            limits: self,
            memory: Reservation::empty(share),
            pace: Pace::new(self.read_timeout),
            patience: self.read_timeout,
        };
        let received = reader.read(&mut body, announced).await;
        if matches!(received, Err(RequestError::BodyTooLarge { .. } | RequestError::Overloaded(_))) {
            // The client may take its time; what arrived is gone.
            reader.memory.shrink_to(0);
            discard(body).await;
        }
        let received = received?;
        let bytes = match encoding {
            Encoding::Identity => received,
            Encoding::Gzip => reader.decompress(Decompression::gzip(received)).await?,
            Encoding::Zstd => {
                let decompression =
                    Decompression::zstd(received, self.max_bytes).map_err(|error| unreadable(&error))?;
                reader.decompress(decompression).await?
            }
        };
        reader.memory.shrink_to(bytes.len());
        Ok(Received { bytes, memory: reader.memory })
    }

    /// Checks the headers. Yields the encoding and the length that they announce.
    fn check(&self, headers: &HeaderMap) -> Result<(Encoding, Option<usize>), RequestError> {
        let encoding = encoding(headers)?;
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|announced| announced > self.max_bytes) {
            return Err(self.too_large());
        }
        Ok((encoding, announced))
    }

    fn too_large(&self) -> RequestError {
        RequestError::BodyTooLarge { max_bytes: self.max_bytes }
    }
}

// === impl Reader ===

impl Reader<'_> {
    async fn read(&mut self, body: &mut Body, announced: Option<usize>) -> Result<Bytes, RequestError> {
        let mut whole = Bytes::new();
        let mut pieces = Vec::new();
        let mut fairness = Fairness::default();
        while let Some(piece) = self.next_piece(body).await? {
            let size = whole.len() + pieces.len() + piece.len();
            self.reserve(size).await?;
            fairness.count(piece.len()).await;
            if size == piece.len() {
                whole = piece;
                continue;
            }
            if size > pieces.capacity() {
                let grow = move || with_room(pieces, size, announced);
                pieces = match size > MAX_COPIED_BYTES {
                    true => offload(grow).await.map_err(|_| RequestError::Internal)?,
                    false => grow(),
                };
            }
            pieces.extend_from_slice(&std::mem::take(&mut whole));
            pieces.extend_from_slice(&piece);
        }
        Ok(if pieces.is_empty() { whole } else { pieces.into() })
    }

    async fn next_piece(&mut self, body: &mut Body) -> Result<Option<Bytes>, RequestError> {
        let since = Instant::now();
        match tokio::time::timeout(self.pace.left(), body.frame()).await {
            Err(_elapsed) => Err(self.pace.too_slow()),
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => Err(RequestError::BodyUnreadable(broken(&error).to_owned())),
            Ok(Some(Ok(frame))) => {
                let piece = frame.into_data().unwrap_or_default();
                self.pace.count(piece.len(), since.elapsed());
                Ok(Some(piece))
            }
        }
    }

    /// Makes the reservation cover a body of this size: exactly at first, in steps when it grows.
    async fn reserve(&mut self, size: usize) -> Result<(), RequestError> {
        if size > self.limits.max_bytes {
            return Err(self.limits.too_large());
        }
        let reserved = self.memory.bytes();
        let missing = size.saturating_sub(reserved);
        if missing == 0 {
            return Ok(());
        }
        let step = missing.max(reserved.min(MAX_STEP_BYTES));
        if !self.memory.try_grow(step) {
            self.memory.grow(missing, &mut self.patience).await?;
        }
        Ok(())
    }

    /// A small body may decompress into a huge one: memory is reserved step by step.
    async fn decompress(&mut self, decompression: Decompression) -> Result<Bytes, RequestError> {
        let mut body = Decompressed::begin(decompression).map_err(|error| unreadable(&error))?;
        loop {
            self.reserve(body.bytes.len()).await?;
            if body.is_whole {
                return Ok(body.bytes.into());
            }
            let next = body.advance().await.map_err(|_| RequestError::Internal)?;
            body = next.map_err(|error| unreadable(&error))?;
        }
    }
}

/// Why a body broke off.
fn broken(error: &axum::Error) -> &'static str {
    let mut cause = error.source();
    while let Some(error) = cause {
        let kind = error.downcast_ref().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)) {
            return "its chunks are malformed";
        }
        cause = error.source();
    }
    "the connection was closed"
}

fn unreadable(error: &io::Error) -> RequestError {
    RequestError::BodyUnreadable(format!("decompression failed ({error})"))
}

/// Makes room for a body that has grown to this size: at most twice as much, and not beyond the announced length.
fn with_room(mut pieces: Vec<u8>, size: usize, announced: Option<usize>) -> Vec<u8> {
    let capacity = size.max((2 * pieces.capacity()).min(announced.unwrap_or(usize::MAX)));
    pieces.reserve_exact(capacity - pieces.len());
    pieces
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, RequestError> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    let text = value.to_str().unwrap_or("?").trim();
    match text.to_ascii_lowercase().as_str() {
        _ if values.next().is_some() => Err(RequestError::UnsupportedEncoding("several".to_owned())),
        "identity" | "" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "zstd" => Ok(Encoding::Zstd),
        _ => Err(RequestError::UnsupportedEncoding(text.to_owned())),
    }
}

/// Discards a body that is rejected by its headers. A client that waits for "100 Continue" has sent nothing yet: it gets the
/// error at once.
pub async fn discard_unread(headers: &HeaderMap, body: Body) {
    if !headers.contains_key(header::EXPECT) {
        discard(body).await;
    }
}

/// Reads the rest of a body, up to a limit, without keeping it, so that the client reads the error.
async fn discard(mut body: Body) {
    let discarding = async {
        let mut discarded = 0;
        let mut fairness = Fairness::default();
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.into_data().map_or(0, |data| data.len());
            fairness.count(size).await;
            discarded += size;
            if discarded > MAX_DISCARDED_BYTES {
                break;
            }
        }
    };
    tokio::time::timeout(MAX_DISCARDING, discarding).await.ok();
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use futures_util::stream::iter;

    use super::*;
    use crate::body_memory::{BodyMemory, Tenant};

    #[tokio::test]
    async fn other_tasks_run_while_a_body_arrives_as_fast_as_it_is_read() {
        const PIECES: usize = 16;
        let piece = Bytes::from(vec![0; 1 << 20]);
        let body = Body::from_stream(iter(vec![Ok::<_, Infallible>(piece); PIECES]));
        let max_bytes = PIECES << 20;
        let memory = Arc::new(BodyMemory::new(max_bytes, max_bytes));
        let (share, is_read, runs) = (memory.share(Tenant::Operators), Cell::new(false), Cell::new(0));
        let limits = BodyLimits { max_bytes, read_timeout: Duration::from_secs(20), memory };
        let reading = async {
            limits.receive(&HeaderMap::new(), body, &share).await.map(|received| received.bytes.len())
        };
        let other = async {
            while !is_read.get() {
                runs.set(runs.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        let reading = async {
            let read = reading.await;
            is_read.set(true);
            read
        };
        let (read, ()) = tokio::join!(reading, other);
        assert_eq!(read.unwrap(), max_bytes);
        assert!(runs.get() >= PIECES, "{} runs", runs.get());
    }
}
