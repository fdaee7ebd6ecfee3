//! What a turn may come to, before anybody knows.

use memchr::memmem;

/// English text and JSON have about four bytes a token.
const BYTES_A_TOKEN: u64 = 4;
/// What an image or a file is taken for, whose bytes say nothing of its tokens.
const ATTACHMENT_TOKENS: u64 = 1_000;
/// Between a data URL's type and its content, which goes on until the quotation mark.
const CONTENT: &[u8] = b";base64,";

/// What a turn may come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// `None` for a model without a price.
    pub cost_nano_usd: Option<u64>,
}

/// About how many tokens these pieces of JSON are.
pub fn input_tokens<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let (mut bytes, mut attachments) = (0, 0);
    for mut piece in pieces {
        while let Some(begin) = memmem::find(piece, CONTENT) {
            let (before, after) = piece.split_at(begin + CONTENT.len());
            bytes += before.len() as u64;
            attachments += 1;
            let end = memchr::memchr(b'"', after).unwrap_or(after.len());
            piece = &after[end..];
        }
        bytes += piece.len() as u64;
    }
    bytes.div_ceil(BYTES_A_TOKEN) + attachments * ATTACHMENT_TOKENS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_counts_by_its_length_and_attachments_do_not() {
        let of = |pieces: &[&str]| input_tokens(pieces.iter().map(|piece| piece.as_bytes()));
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&["a"]), 1);
        assert_eq!(of(&["abcd", "efgh", "i"]), 3);
        let image = format!(r#"{{"image_url":"data:image/png;base64,{}"}}"#, "iVBOR".repeat(100_000));
        assert_eq!(of(&[&image]), 10 + 1_000);
        assert_eq!(of(&[&image, "abcd", &image]), 20 + 2_000);
        assert_eq!(of(&[";base64,abcdefgh"]), 2 + 1_000, "it may be cut off");
    }
}
