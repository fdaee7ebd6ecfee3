//! A request's body: read within its limits, and decompressed.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::BodyLimits;
use crate::turn::Failure;

/// A body larger than this is decompressed on a thread where that may take its time.
const INLINE_DECOMPRESSION_BYTES: usize = 32 * 1024;
/// How much of a body that is too large is read before the refusal is sent: most clients read no reply before they have sent
/// everything.
const MAX_DISCARDED_BYTES: usize = 256 * 1024 * 1024;
const MAX_DISCARDING: Duration = Duration::from_secs(20);

/// A whole body, and the memory it is entitled to.
pub struct Received {
    pub bytes: Bytes,
    pub permit: OwnedSemaphorePermit,
}

enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl BodyLimits {
    /// Reads a body to its end.
    pub async fn receive(&self, headers: &HeaderMap, mut body: Body) -> Result<Received, Failure> {
        let encoding = encoding(headers)?;
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let expects_continue = headers.contains_key(header::EXPECT);
        if announced.is_some_and(|announced: usize| announced > self.max_bytes) {
            if !expects_continue {
                discard(body).await;
            }
            return Err(self.too_large());
        }
        let mut permit = self.reserve(announced.unwrap_or_default()).await?;
        let mut whole = Bytes::new();
        let mut pieces = BytesMut::new();
        while let Some(piece) = self.next_piece(&mut body).await? {
            if whole.is_empty() && pieces.is_empty() {
                whole = piece;
                continue;
            }
            pieces.extend_from_slice(&std::mem::take(&mut whole));
            pieces.extend_from_slice(&piece);
            if pieces.len() > self.max_bytes {
                discard(body).await;
                return Err(self.too_large());
            }
            self.extend(&mut permit, pieces.len()).await?;
        }
        let received = if pieces.is_empty() { whole } else { pieces.freeze() };
        let bytes = match encoding {
            Encoding::Identity => received,
            encoding => {
                let bytes = self.decompress(encoding, received).await?;
                self.extend(&mut permit, bytes.len()).await?;
                bytes
            }
        };
        if bytes.len() > self.max_bytes {
            return Err(self.too_large());
        }
        Ok(Received { bytes, permit })
    }

    async fn next_piece(&self, body: &mut Body) -> Result<Option<Bytes>, Failure> {
        match tokio::time::timeout(self.read_timeout, body.frame()).await {
            Err(_elapsed) => Err(Failure::BodyTimeout(self.read_timeout)),
            Ok(None) => Ok(None),
            Ok(Some(Err(_))) => Err(Failure::BodyUnreadable("the connection broke off".to_owned())),
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        }
    }

    fn too_large(&self) -> Failure {
        Failure::BodyTooLarge { max_bytes: self.max_bytes }
    }

    async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Failure> {
        let acquiring = Semaphore::acquire_many_owned(self.memory.clone(), kib(bytes));
        match tokio::time::timeout(self.read_timeout, acquiring).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Failure::Overloaded),
        }
    }

    /// Makes the permit cover this many bytes.
    async fn extend(&self, permit: &mut OwnedSemaphorePermit, bytes: usize) -> Result<(), Failure> {
        let missing = (kib(bytes) as usize).saturating_sub(permit.num_permits());
        if missing > 0 {
            permit.merge(self.reserve(missing * 1024).await?);
        }
        Ok(())
    }

    async fn decompress(&self, encoding: Encoding, compressed: Bytes) -> Result<Bytes, Failure> {
        let max_bytes = self.max_bytes;
        let inline = compressed.len() <= INLINE_DECOMPRESSION_BYTES;
        let decompress = move || match encoding {
            Encoding::Identity => Ok(compressed),
            Encoding::Gzip => read_up_to(flate2::read::MultiGzDecoder::new(&*compressed), max_bytes),
            Encoding::Zstd => match zstd::stream::read::Decoder::with_buffer(&*compressed) {
                Ok(decoder) => read_up_to(decoder, max_bytes),
                Err(error) => Err(Failure::BodyUnreadable(error.to_string())),
            },
        };
        if inline {
            return decompress();
        }
        tokio::task::spawn_blocking(decompress).await.map_err(|_| Failure::Internal)?
    }
}

/// Reads to the end, or just over the limit: a small body may unfold into a huge one.
fn read_up_to(decoder: impl Read, max_bytes: usize) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let read = decoder.take(max_bytes as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::BodyUnreadable(format!("it can't be decompressed ({error})")))?;
    if bytes.len() > max_bytes {
        return Err(Failure::BodyTooLarge { max_bytes });
    }
    Ok(bytes.into())
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Failure> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    let text = value.to_str().unwrap_or("?").trim();
    match text.to_ascii_lowercase().as_str() {
        _ if values.next().is_some() => Err(Failure::UnsupportedEncoding("several".to_owned())),
        "identity" | "" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "zstd" => Ok(Encoding::Zstd),
        _ => Err(Failure::UnsupportedEncoding(text.to_owned())),
    }
}

/// Reads on for a while without keeping anything, so that the client gets to read the refusal.
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
