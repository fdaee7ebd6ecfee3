//! Decompresses a body in steps whose work is bounded, whatever they read and write.

use std::io::{self, BufRead, Read};

use antiphon_runtime::offload::{Aborted, offload};
use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;

/// How much is read in one step.
const FIRST_STEP_BYTES: usize = 8 * 1024;
const NEXT_STEP_BYTES: usize = 32 * 1024;
/// How much a step writes at most.
const STEP_BYTES: u64 = 256 * 1024;
/// Binary logarithms of a decoder's window: every decoder should support 8 MiB, and ours never uses more than 128 MiB.
const MIN_WINDOW_LOG: u32 = 23;
const MAX_WINDOW_LOG: u32 = 27;

/// A body as far as it is decompressed.
pub struct Decompressed {
    pub bytes: Vec<u8>,
    pub is_whole: bool,
    decompression: Decompression,
}

pub enum Decompression {
    Gzip(MultiGzDecoder<Input>),
    Zstd(zstd::stream::read::Decoder<'static, Input>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There may be more.
    Done,
    Last,
}

/// The compressed body. A step reads as much of it as it may: a decoder can read for minutes without writing a byte.
pub struct Input {
    rest: Bytes,
    may_read: usize,
}

// === impl Decompressed ===

impl Decompressed {
    /// Makes the first step, in place.
    pub fn begin(decompression: Decompression) -> io::Result<Self> {
        Self { bytes: Vec::new(), is_whole: false, decompression }.step(FIRST_STEP_BYTES)
    }

    /// Makes the next step, on another thread.
    pub async fn advance(self) -> Result<io::Result<Self>, Aborted> {
        offload(move || self.step(NEXT_STEP_BYTES)).await
    }

    fn step(mut self, may_read: usize) -> io::Result<Self> {
        self.is_whole = self.decompression.step(&mut self.bytes, may_read)? == Step::Last;
        Ok(self)
    }
}

// === impl Decompression ===

impl Decompression {
    pub fn gzip(body: Bytes) -> Self {
        Self::Gzip(MultiGzDecoder::new(Input { rest: body, may_read: 0 }))
    }

    /// A frame announces how much memory its decoder needs: at most as much as the largest body.
    pub fn zstd(body: Bytes, max_bytes: usize) -> io::Result<Self> {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(Input { rest: body, may_read: 0 })?;
        let window_log = usize::BITS - max_bytes.leading_zeros();
        decoder.window_log_max(window_log.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG))?;
        Ok(Self::Zstd(decoder))
    }

    /// Reads up to this many bytes, and appends what they decompress into.
    fn step(&mut self, bytes: &mut Vec<u8>, may_read: usize) -> io::Result<Step> {
        let input = match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        };
        input.may_read = may_read;
        let decoder: &mut dyn Read = match self {
            Self::Gzip(decoder) => decoder,
            Self::Zstd(decoder) => decoder,
        };
        match decoder.take(STEP_BYTES).read_to_end(bytes) {
            Ok(written) => Ok(if (written as u64) < STEP_BYTES { Step::Last } else { Step::Done }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Step::Done),
            Err(error) => Err(error),
        }
    }
}

// === impl Input ===

impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.may_read == 0 && !self.rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.rest[..self.rest.len().min(self.may_read)])
    }

    fn consume(&mut self, amount: usize) {
        self.rest.advance(amount);
        self.may_read -= amount;
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use flate2::GzBuilder;

    use super::*;

    /// The output, and the number of steps.
    fn decompressed(mut decompression: Decompression, may_read: usize) -> io::Result<(Vec<u8>, usize)> {
        let (mut bytes, mut steps) = (Vec::new(), 1);
        while decompression.step(&mut bytes, may_read)? == Step::Done {
            steps += 1;
        }
        Ok((bytes, steps))
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        let mut encoder = GzBuilder::new().filename("a").comment("b").extra("c").write(Vec::new(), level);
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_size_of_a_step_leads_to_the_same_body() {
        let content: Vec<u8> = (0..20_000_u32).flat_map(|n| (n * n).to_be_bytes()).collect();
        let (first, second) = content.split_at(30_000);
        let zip = |content| zstd::encode_all(content, 1).unwrap();
        let members = Bytes::from([gzip(first), gzip(b""), gzip(second)].concat());
        let frames = Bytes::from([zip(first), zip(b""), zip(second)].concat());
        for may_read in [1, 7, 1_000, 1 << 20] {
            let (unzipped, _) = decompressed(Decompression::gzip(members.clone()), may_read).unwrap();
            assert!(unzipped == content);
            let zstd = Decompression::zstd(frames.clone(), 1 << 20).unwrap();
            assert!(decompressed(zstd, may_read).unwrap().0 == content);
        }
    }

    #[test]
    fn a_body_that_was_cut_off_is_an_error() {
        let content = [7; 100];
        let (gzip, zstd) = (gzip(&content), zstd::encode_all(&content[..], 1).unwrap());
        for may_read in [1, 1_000] {
            for length in 0..gzip.len() {
                let cut = Bytes::copy_from_slice(&gzip[..length]);
                assert!(decompressed(Decompression::gzip(cut), may_read).is_err(), "{length} bytes");
            }
            for length in 1..zstd.len() {
                let cut = Decompression::zstd(Bytes::copy_from_slice(&zstd[..length]), 1 << 20).unwrap();
                assert!(decompressed(cut, may_read).is_err(), "{length} bytes");
            }
        }
    }

    /// A body of about so many bytes without content.
    pub fn empty_blocks(size_bytes: usize) -> Bytes {
        // Four empty blocks with the fixed code, of ten bits each.
        const EMPTY_BLOCKS: [u8; 5] = [0x02, 0x08, 0x20, 0x80, 0x00];
        const LAST_BLOCK: [u8; 2] = [0x03, 0x00];
        const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
        const CHECKSUM_AND_SIZE: [u8; 8] = [0; 8];
        let blocks = EMPTY_BLOCKS.repeat(size_bytes / EMPTY_BLOCKS.len());
        [&HEAD[..], &blocks, &LAST_BLOCK, &CHECKSUM_AND_SIZE].concat().into()
    }

    #[test]
    fn a_body_of_empty_blocks_takes_as_many_steps_as_it_is_long() {
        let (bytes, steps) = decompressed(Decompression::gzip(empty_blocks(100_000)), 1_000).unwrap();
        assert_eq!((bytes.len(), steps), (0, 101));
    }
}
