//! Compression of response bodies, with a dictionary of what all response objects have in common.
//!
//! A body of a kilobyte or two consists mostly of default values. Uncompressed it would be most of what a turn costs on disk, and
//! writing it would take longer.

use std::sync::LazyLock;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use crate::StoreError;

/// Never edit it: bodies compressed with it can't be read without it. A better dictionary gets its own format.
static DICTIONARY_1: &[u8] = include_bytes!("../dictionaries/body-1.json");
/// Fast: one more doubles the time and saves a tenth.
const LEVEL: i32 = -1;

/// The first byte of what is stored.
const PLAIN: u8 = 0;
/// Followed by the body's length in four bytes, the lowest first, and a zstd frame.
const ZSTD_1: u8 = 1;

static ENCODER_1: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY_1, LEVEL));
static DECODER_1: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(DICTIONARY_1));

/// Compresses bodies.
pub(crate) struct Encoder {
    /// `None` if there was no memory for it.
    compressor: Option<Compressor<'static>>,
}

// === impl Encoder ===

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { compressor: Compressor::with_prepared_dictionary(&ENCODER_1).ok() }
    }

    pub(crate) fn encode(&mut self, body: &[u8]) -> Vec<u8> {
        self.compress(body).unwrap_or_else(|| [&[PLAIN], body].concat())
    }

    /// `None` if the body doesn't get smaller.
    fn compress(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let frame = self.compressor.as_mut()?.compress(body).ok()?;
        let length = u32::try_from(body.len()).ok()?.to_le_bytes();
        (frame.len() + length.len() < body.len()).then(|| [&[ZSTD_1], &length[..], &frame].concat())
    }
}

pub(crate) fn decode(stored: &[u8]) -> Result<Bytes, StoreError> {
    let corrupt = || StoreError::Corrupt("a response body can't be decompressed".into());
    match stored.split_first() {
        Some((&PLAIN, body)) => Ok(Bytes::copy_from_slice(body)),
        Some((&ZSTD_1, rest)) => {
            let (length, frame) = rest.split_first_chunk().ok_or_else(corrupt)?;
            let length = u32::from_le_bytes(*length) as usize;
            let mut decompressor =
                Decompressor::with_prepared_dictionary(&DECODER_1).map_err(|_| corrupt())?;
            let body = decompressor.decompress(frame, length).map_err(|_| corrupt())?;
            if body.len() == length { Ok(body.into()) } else { Err(corrupt()) }
        }
        _ => Err(corrupt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_back_byte_for_byte() {
        let mut encoder = Encoder::new();
        let noise: Vec<u8> = (0..5_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for body in [b"" as &[u8], b"{}", DICTIONARY_1, &DICTIONARY_1[600..1_900], &noise, &[b'x'; 3_000_000]]
        {
            let stored = encoder.encode(body);
            assert!(stored.len() <= body.len() + 1);
            assert_eq!(decode(&stored).unwrap(), body);
        }
    }

    #[test]
    fn members_that_all_responses_have_take_little_space() {
        let text = String::from_utf8(DICTIONARY_1.to_vec()).unwrap();
        let (_, usual) = text.split_at(text.find(r#"{"id":"resp_"#).unwrap());
        let body = usual
            .replace("resp_019", "resp_01998a7c2b3d4e5f60718293a4b5c6d7")
            .replace(r#"tokens":,"#, r#"tokens":1024,"#);
        let stored = Encoder::new().encode(body.as_bytes());
        assert!(stored.len() * 5 < body.len(), "{} of {}", stored.len(), body.len());
    }

    /// Never change these bytes: bodies that earlier builds stored must stay readable.
    #[test]
    fn a_body_of_an_earlier_build_can_be_read() {
        const STORED: &[u8] = &[
            1, 87, 0, 0, 0, 40, 181, 47, 253, 32, 87, 117, 1, 0, 240, 57, 56, 97, 55, 99, 50, 98, 51, 100,
            52, 101, 53, 102, 54, 48, 55, 49, 56, 50, 57, 51, 97, 52, 98, 53, 99, 54, 100, 55, 125, 4, 0,
            239, 69, 2, 250, 47, 170, 43, 17, 15, 136, 115, 51, 16,
        ];
        let expected =
            r#"{"id":"resp_01998a7c2b3d4e5f60718293a4b5c6d7","object":"response","status":"completed"}"#;
        assert_eq!(decode(STORED).unwrap(), expected);
    }

    #[test]
    fn bytes_that_are_no_stored_body_are_refused() {
        let stored = Encoder::new().encode(&[b'x'; 100]);
        let longer = [&[ZSTD_1, 101, 0, 0, 0], &stored[5..]].concat();
        let shorter = [&[ZSTD_1, 99, 0, 0, 0], &stored[5..]].concat();
        for wrong in [&[][..], &[2, 0], &stored[..4], &stored[..stored.len() - 1], &longer, &shorter] {
            assert!(matches!(decode(wrong), Err(StoreError::Corrupt(_))), "{wrong:?}");
        }
    }
}
