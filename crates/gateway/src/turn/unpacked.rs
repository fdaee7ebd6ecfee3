//! Error replies that an upstream, or a proxy before it, has compressed unasked.

use std::io::Read;

use antiphon_runtime::offload::offload_if_long;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use http::{HeaderMap, header};

/// The body as it was before it was compressed. `None` if it cannot be read, or would be larger than this.
pub async fn unpacked(headers: &HeaderMap, body: Bytes, max_bytes: usize) -> Option<Bytes> {
    let encoding = headers.get(header::CONTENT_ENCODING).map_or(&b"identity"[..], |value| value.as_bytes());
    if encoding.eq_ignore_ascii_case(b"identity") {
        return Some(body);
    }
    let is_gzip = encoding.eq_ignore_ascii_case(b"gzip") || encoding.eq_ignore_ascii_case(b"x-gzip");
    if !is_gzip {
        return None;
    }
    offload_if_long(body.len(), move || gunzip(&body, max_bytes)).await.ok()?
}

fn gunzip(body: &[u8], max_bytes: usize) -> Option<Bytes> {
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(body).take(max_bytes as u64 + 1).read_to_end(&mut unpacked).ok()?;
    (unpacked.len() <= max_bytes).then(|| unpacked.into())
}
