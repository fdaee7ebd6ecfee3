//! The estimated use of a turn, from which its reservation is made.

use memchr::memmem;

/// English text and JSON have about four bytes a token.
const BYTES_PER_TOKEN: u64 = 4;
/// The estimate for an image or a file, whose size says nothing about its tokens.
const ATTACHMENT_TOKENS: u64 = 1_000;
/// Precedes the content of a data URL.
const BASE64_MARKER: &[u8] = b";base64,";
/// The members whose value is an image or a file. In others a data URL is text to the model.
const ATTACHMENT_MEMBERS: [&[u8]; 3] = [b"\"image_url\"", b"\"url\"", b"\"file_data\""];

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
            piece = after;
            if is_attachment(before) {
                attachments += 1;
                // Base64 has no spaces, so words that follow are text.
                let end = memchr::memchr2(b'"', b' ', after).unwrap_or(after.len());
                piece = &after[end..];
            }
        }
        bytes += piece.len() as u64;
    }
    bytes.div_ceil(BYTES_PER_TOKEN) + attachments * ATTACHMENT_TOKENS
}

/// Whether the data URL whose content follows this JSON is the value of a member for attachments.
fn is_attachment(before: &[u8]) -> bool {
    let Some(quote) = memchr::memrchr(b'"', before) else { return false };
    let (before, value) = before.split_at(quote);
    let Some(key) = before.trim_ascii_end().strip_suffix(b":") else { return false };
    let key = key.trim_ascii_end();
    value.starts_with(b"\"data:") && ATTACHMENT_MEMBERS.iter().any(|member| key.ends_with(member))
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
        let cut = r#"{"url" : "data:image/png;base64,abcdefgh"#;
        assert_eq!(estimate(&[cut]), 8 + 1_000, "without its closing quotation mark");
    }

    #[test]
    fn text_is_no_attachment_whatever_it_says() {
        let text = "words ".repeat(1_000);
        for marked in [
            format!(r#"{{"text":";base64,{text}"}}"#),
            format!(r#"{{"text":"data:text/plain;base64,{text}"}}"#),
            format!(r#"{{"text":"\"image_url\":\"data:image/png;base64,{text}"}}"#),
            format!(r#"{{"url":"see data:image/png;base64,{text}"}}"#),
            format!("{};base64,", text.trim_end()),
        ] {
            let estimated = input_tokens([marked.as_bytes()]);
            assert_eq!(estimated, (marked.len() as u64).div_ceil(BYTES_PER_TOKEN), "{}", &marked[..40]);
        }
        let marked = format!(r#"{{"image_url":"data:image/png;base64,{text}"}}"#);
        assert!(input_tokens([marked.as_bytes()]) > 1_000 + 6_000 / BYTES_PER_TOKEN);
    }
}
