//! Error replies that an upstream, or a proxy before it, has compressed unasked.

use bytes::Bytes;
use http::{HeaderMap, header};

use crate::decompression::{Decompressed, Decompression};

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
    let mut body = Decompressed::begin(Decompression::gzip(body)).ok()?;
    while !body.is_whole && body.bytes.len() <= max_bytes {
        body = body.advance().await.ok()?.ok()?;
    }
    (body.bytes.len() <= max_bytes).then(|| body.bytes.into())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use http::HeaderValue;

    use super::*;
    use crate::decompression::tests::empty_blocks;

    #[tokio::test]
    async fn other_tasks_run_while_a_reply_without_content_is_unpacked() {
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        let body = empty_blocks(100_000);
        let (is_unpacked, runs) = (Cell::new(false), Cell::new(0));
        let unpacking = async {
            let unpacked = unpacked(&headers, body, 1_000).await;
            is_unpacked.set(true);
            unpacked
        };
        let other = async {
            while !is_unpacked.get() {
                runs.set(runs.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        let (unpacked, ()) = tokio::join!(unpacking, other);
        assert_eq!(unpacked, Some(Bytes::new()));
        assert!(runs.get() > 0);
    }
}
