//! Reads a request's body within its limits and decompresses it.

use std::io::{Cursor, Read};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::app_state::BodyLimits;
use super::error::RequestError;

/// How much is decompressed in one step. The first step runs in place, the others on blocking threads.
const DECOMPRESSION_STEP_BYTES: u64 = 256 * 1024;
/// How much of a rejected body is read before the error is sent: most clients read no reply before they have sent
/// everything.
const MAX_DISCARDED_BYTES: usize = 256 * 1024 * 1024;
const MAX_DISCARDING: Duration = Duration::from_secs(20);

/// A whole body and the memory reserved for it.
pub struct Received {
    pub bytes: Bytes,
    pub permit: OwnedSemaphorePermit,
}

enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

type Decoder = Box<dyn Read + Send>;

impl BodyLimits {
    /// Reads a body to its end. Reserves memory as the body grows, and waits while none is left.
    pub async fn receive(&self, headers: &HeaderMap, mut body: Body) -> Result<Received, RequestError> {
        let (encoding, mut permit) = match self.entitle(headers).await {
            Ok(entitled) => entitled,
            Err(error) => {
                discard_unread(headers, body).await;
                return Err(error);
            }
        };
        let received = self.read(&mut body, &mut permit).await;
        if matches!(received, Err(RequestError::BodyTooLarge { .. } | RequestError::Overloaded)) {
            discard(body).await;
        }
        let received = received?;
        let decoder: Decoder = match encoding {
            Encoding::Identity => return Ok(Received { bytes: received, permit }),
            Encoding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(Cursor::new(received))),
            Encoding::Zstd => Box::new(
                zstd::stream::read::Decoder::with_buffer(Cursor::new(received))
                    .map_err(|error| RequestError::BodyUnreadable(error.to_string()))?,
            ),
        };
        let bytes = self.decompress(decoder, &mut permit).await?;
        Ok(Received { bytes, permit })
    }

    /// Checks the headers, and reserves memory for the length that they announce.
    async fn entitle(&self, headers: &HeaderMap) -> Result<(Encoding, OwnedSemaphorePermit), RequestError> {
        let encoding = encoding(headers)?;
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let announced: usize = announced.unwrap_or_default();
        if announced > self.max_bytes {
            return Err(self.too_large());
        }
        Ok((encoding, self.reserve(announced).await?))
    }

    async fn read(&self, body: &mut Body, permit: &mut OwnedSemaphorePermit) -> Result<Bytes, RequestError> {
        let mut whole = Bytes::new();
        let mut pieces = BytesMut::new();
        while let Some(piece) = self.next_piece(body).await? {
            let size = whole.len() + pieces.len() + piece.len();
            if size > self.max_bytes {
                return Err(self.too_large());
            }
            self.extend(permit, size).await?;
            if size == piece.len() {
                whole = piece;
                continue;
            }
            pieces.extend_from_slice(&std::mem::take(&mut whole));
            pieces.extend_from_slice(&piece);
        }
        Ok(if pieces.is_empty() { whole } else { pieces.freeze() })
    }

    async fn next_piece(&self, body: &mut Body) -> Result<Option<Bytes>, RequestError> {
        match tokio::time::timeout(self.read_timeout, body.frame()).await {
            Err(_elapsed) => Err(RequestError::BodyTimeout(self.read_timeout)),
            Ok(None) => Ok(None),
            Ok(Some(Err(_))) => Err(RequestError::BodyUnreadable("the connection was closed".to_owned())),
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        }
    }

    fn too_large(&self) -> RequestError {
        RequestError::BodyTooLarge { max_bytes: self.max_bytes }
    }

    pub(super) async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, RequestError> {
        let acquiring = Semaphore::acquire_many_owned(self.memory.clone(), kib(bytes));
        match tokio::time::timeout(self.read_timeout, acquiring).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(RequestError::Overloaded),
        }
    }

    /// Makes the permit cover this many bytes.
    async fn extend(&self, permit: &mut OwnedSemaphorePermit, bytes: usize) -> Result<(), RequestError> {
        let missing = (kib(bytes) as usize).saturating_sub(permit.num_permits());
        if missing > 0 {
            permit.merge(self.reserve(missing * 1024).await?);
        }
        Ok(())
    }

    /// A small body may decompress into a huge one: memory is reserved step by step.
    async fn decompress(
        &self,
        mut decoder: Decoder,
        permit: &mut OwnedSemaphorePermit,
    ) -> Result<Bytes, RequestError> {
        let mut bytes = Vec::new();
        let mut is_over = decompress_step(&mut decoder, &mut bytes)?;
        loop {
            if bytes.len() > self.max_bytes {
                return Err(self.too_large());
            }
            self.extend(permit, bytes.len()).await?;
            if is_over {
                return Ok(bytes.into());
            }
            let step = tokio::task::spawn_blocking(move || {
                let is_over = decompress_step(&mut decoder, &mut bytes);
                is_over.map(|is_over| (decoder, bytes, is_over))
            });
            (decoder, bytes, is_over) = step.await.map_err(|_| RequestError::Internal)??;
        }
    }
}

/// Decompresses one step; `true` at the end.
fn decompress_step(decoder: &mut Decoder, bytes: &mut Vec<u8>) -> Result<bool, RequestError> {
    match decoder.take(DECOMPRESSION_STEP_BYTES).read_to_end(bytes) {
        Ok(read) => Ok((read as u64) < DECOMPRESSION_STEP_BYTES),
        Err(error) => Err(RequestError::BodyUnreadable(format!("decompression failed ({error})"))),
    }
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
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.into_data().map_or(0, |data| data.len());
            if discarded > MAX_DISCARDED_BYTES {
                break;
            }
        }
    };
    tokio::time::timeout(MAX_DISCARDING, discarding).await.ok();
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
