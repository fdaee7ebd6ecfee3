//! The estimated use of a turn, from which its reservation is made.

use memchr::memmem;

/// English text and JSON have about four bytes a token.
const BYTES_PER_TOKEN: u64 = 4;
/// The estimate for an image or a file, whose size says nothing about its tokens.
const ATTACHMENT_TOKENS: u64 = 1_000;
/// Precedes the content of a data URL, which ends at the quotation mark.
const BASE64_MARKER: &[u8] = b";base64,";

/// The estimated use of a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// `None` for a model without a price.
    pub cost_nano_usd: Option<u64>,
}

/// Estimates the tokens of these pieces of JSON.
pub fn input_tokens<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let (mut bytes, mut attachments) = (0, 0);
    for mut piece in pieces {
        while let Some(begin) = memmem::find(piece, BASE64_MARKER) {
            let (before, after) = piece.split_at(begin + BASE64_MARKER.len());
            bytes += before.len() as u64;
            attachments += 1;
            let end = memchr::memchr(b'"', after).unwrap_or(after.len());
            piece = &after[end..];
        }
        bytes += piece.len() as u64;
    }
    bytes.div_ceil(BYTES_PER_TOKEN) + attachments * ATTACHMENT_TOKENS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_estimated_by_length_and_attachments_by_a_constant() {
        let estimate = |pieces: &[&str]| input_tokens(pieces.iter().map(|piece| piece.as_bytes()));
        assert_eq!(estimate(&[]), 0);
        assert_eq!(estimate(&["a"]), 1);
        assert_eq!(estimate(&["abcd", "efgh", "i"]), 3);
        let image = format!(r#"{{"image_url":"data:image/png;base64,{}"}}"#, "iVBOR".repeat(100_000));
        assert_eq!(estimate(&[&image]), 10 + 1_000);
        assert_eq!(estimate(&[&image, "abcd", &image]), 20 + 2_000);
        assert_eq!(estimate(&[";base64,abcdefgh"]), 2 + 1_000, "without its closing quotation mark");
    }
}
