//! Where the body of an HTTP/1.1 reply ends, and which of the bytes are its data.

use bytes::BytesMut;

/// Limits what is between the data of two chunks, and the trailers.
const MAX_OVERHEAD_BYTES: usize = 16 * 1024;

/// Decodes a body of which any part may arrive at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunked),
    /// Until the upstream closes the connection.
    UntilClose,
}

/// Where a chunked body has been decoded to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    /// Bytes since the last data.
    overhead: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    SizeStart,
    Size(u64),
    /// After the size, until the end of its line.
    Extension(u64),
    SizeLineFeed(u64),
    /// So many bytes of the chunk are left.
    Data(u64),
    DataReturn,
    DataLineFeed,
    TrailerStart,
    Trailer,
    TrailerLineFeed,
    EndLineFeed,
    End,
}

/// The body is not framed as HTTP/1.1 demands.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reply has an invalid chunk")]
pub struct BadChunk;

// === impl Framing ===

impl Framing {
    pub fn chunked() -> Self {
        Self::Chunked(Chunked::default())
    }

    pub fn is_at_end(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.state == State::End,
            Self::UntilClose => false,
        }
    }

    /// Appends the data in `bytes`. Returns how many bytes belong to the body: all of them before its end.
    pub fn decode(&mut self, bytes: &[u8], data: &mut BytesMut) -> Result<usize, BadChunk> {
        match self {
            Self::Length(left) => {
                let taken = take(bytes, left);
                data.extend_from_slice(taken);
                Ok(taken.len())
            }
            Self::Chunked(chunked) => chunked.decode(bytes, data),
            Self::UntilClose => {
                data.extend_from_slice(bytes);
                Ok(bytes.len())
            }
        }
    }
}

// === impl Chunked ===

impl Chunked {
    fn decode(&mut self, bytes: &[u8], data: &mut BytesMut) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::End {
            if let State::Data(left) = &mut self.state {
                let taken = take(&bytes[at..], left);
                data.extend_from_slice(taken);
                at += taken.len();
                self.overhead = 0;
                if *left == 0 {
                    self.state = State::DataReturn;
                }
                continue;
            }
            self.state = self.state.after(bytes[at])?;
            at += 1;
            self.overhead += 1;
            if self.overhead > MAX_OVERHEAD_BYTES {
                return Err(BadChunk);
            }
        }
        Ok(at)
    }
}

// === impl State ===

impl State {
    /// The state after a byte that is not data.
    fn after(self, byte: u8) -> Result<Self, BadChunk> {
        Ok(match (self, byte) {
            (Self::SizeStart, _) => Self::Size(digit(byte).ok_or(BadChunk)?),
            (Self::Size(size), b'\r') | (Self::Extension(size), b'\r') => Self::SizeLineFeed(size),
            (Self::Size(size), b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Size(size), _) => {
                let digit = digit(byte).ok_or(BadChunk)?;
                Self::Size(size.checked_mul(16).ok_or(BadChunk)? + digit)
            }
            (Self::Extension(_) | Self::TrailerStart | Self::Trailer, b'\n') => return Err(BadChunk),
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeLineFeed(0), b'\n') => Self::TrailerStart,
            (Self::SizeLineFeed(size), b'\n') => Self::Data(size),
            (Self::DataReturn, b'\r') => Self::DataLineFeed,
            (Self::DataLineFeed, b'\n') => Self::SizeStart,
            (Self::TrailerStart, b'\r') => Self::EndLineFeed,
            (Self::Trailer, b'\r') => Self::TrailerLineFeed,
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
            (Self::TrailerLineFeed, b'\n') => Self::TrailerStart,
            (Self::EndLineFeed, b'\n') => Self::End,
            _ => return Err(BadChunk),
        })
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// The part of `bytes` that is among the bytes left.
fn take<'a>(bytes: &'a [u8], left: &mut u64) -> &'a [u8] {
    let taken = &bytes[..bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX))];
    *left -= taken.len() as u64;
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of a body that arrives in these parts, and how much came after its end.
    fn decode<'a>(
        mut framing: Framing,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let (mut data, mut after_end) = (BytesMut::new(), 0);
        for part in parts {
            after_end += part.len() - framing.decode(part, &mut data)?;
        }
        Ok((data.to_vec(), after_end, framing.is_at_end()))
    }

    proptest! {
        #[test]
        fn every_split_of_a_body_yields_the_same_data(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            has_extras in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                let extension = if has_extras { " ;a=\"b\"" } else { "" };
                body.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(if has_extras { b"000\r\nA: b\r\nC: d\r\n\r\n" } else { b"0\r\n\r\n" });
            let end = body.len();
            body.extend_from_slice(b"HTTP");
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let parts = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]);
            prop_assert_eq!(decode(Framing::chunked(), parts), Ok((chunks.concat(), body.len() - end, true)));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1'), Just(b';'), any::<u8>()
        ], 0..64)) {
            let whole = decode(Framing::chunked(), [&bytes[..]]);
            prop_assert_eq!(whole, decode(Framing::chunked(), bytes.chunks(1)));
        }
    }

    #[test]
    fn a_body_with_a_length_ends_there() {
        let parts = [&b"ab"[..], b"cd", b"ef"];
        assert_eq!(decode(Framing::Length(5), parts), Ok((b"abcde".to_vec(), 1, true)));
        assert_eq!(decode(Framing::Length(7), parts), Ok((b"abcdef".to_vec(), 0, false)));
        assert_eq!(decode(Framing::UntilClose, parts), Ok((b"abcdef".to_vec(), 0, false)));
        assert!(Framing::Length(0).is_at_end());
    }

    #[test]
    fn invalid_chunks_are_refused() {
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "1\n",
            "1\r\nab",
            "1\r\na\n",
            "1 \n",
            "2\r\na\r\n0\r\n\r\nx",
            "0\r\n\r\r",
            "0\r\nA: b\n",
            "0\r\n\n",
            "1\rx",
            "fffffffffffffffff\r\n",
            "0x1\r\n",
        ] {
            assert_eq!(decode(Framing::chunked(), [body.as_bytes()]), Err(BadChunk), "{body:?}");
        }
        let endless = format!("1;{}", "x".repeat(MAX_OVERHEAD_BYTES));
        assert_eq!(decode(Framing::chunked(), [endless.as_bytes()]), Err(BadChunk));
        let endless = format!("0\r\n{}", "a: b\r\n".repeat(MAX_OVERHEAD_BYTES / 6 + 1));
        assert_eq!(decode(Framing::chunked(), [endless.as_bytes()]), Err(BadChunk));
    }
}
