//! WebSocket frames (RFC 6455), split into frames of a few KiB.
//!
//! A decoder may reserve what the header of a frame announces before any of it has arrived. Behind a [`FrameSplitter`] it
//! sees the same messages in small frames, so that its buffers grow with what arrives. Payloads stay as they are.

/// Two bytes, eight of length, four of mask.
pub const MAX_HEADER_BYTES: usize = 14;
/// The largest payload of a frame that comes out. A multiple of the mask's length, so that the mask of a frame fits all of
/// its pieces.
pub const MAX_PIECE_BYTES: u64 = 4 * 1024;
const MAX_CONTROL_BYTES: u64 = 125;

const FINAL: u8 = 0x80;
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;

/// Splits frames. It sees their headers only, and says what to do next.
#[derive(Debug)]
pub struct FrameSplitter {
    max_frame_bytes: u64,
    /// The header of a frame, as far as it has arrived.
    header: Header,
    /// The header of a piece, and how much of it has been passed on.
    piece_header: Header,
    passed: usize,
    /// What is left of the piece, and of the frame after it.
    piece_left: u64,
    frame_left: u64,
    /// The first byte of the next piece's header.
    first: u8,
    is_in_message: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Header {
    bytes: [u8; MAX_HEADER_BYTES],
    len: usize,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Read so many bytes, or fewer, and give them to [`FrameSplitter::push_header`].
    ReadHeader(usize),
    /// Pass these bytes on, and say how many to [`FrameSplitter::header_passed`].
    PassHeader(&'a [u8]),
    /// Read so many bytes, or fewer, pass them on, and say how many to [`FrameSplitter::payload_passed`].
    PassPayload(usize),
}

/// A control frame is longer than 125 bytes.
#[derive(Debug, thiserror::Error)]
#[error("a control frame has more than {MAX_CONTROL_BYTES} bytes")]
pub struct OversizedControlFrame;

// === impl FrameSplitter ===

impl FrameSplitter {
    /// A larger frame passes as it is: its decoder rejects it by its header.
    pub fn new(max_frame_bytes: usize) -> Self {
        Self {
            max_frame_bytes: max_frame_bytes as u64,
            header: Header::default(),
            piece_header: Header::default(),
            passed: 0,
            piece_left: 0,
            frame_left: 0,
            first: 0,
            is_in_message: false,
        }
    }

    pub fn step(&self) -> Step<'_> {
        let header = &self.piece_header.bytes[self.passed..self.piece_header.len];
        if !header.is_empty() {
            Step::PassHeader(header)
        } else if self.piece_left > 0 {
            Step::PassPayload(usize::try_from(self.piece_left).unwrap_or(usize::MAX))
        } else {
            Step::ReadHeader(self.header.needed() - self.header.len)
        }
    }

    /// # Errors
    ///
    /// [`OversizedControlFrame`] if these bytes are the end of such a frame's header.
    pub fn push_header(&mut self, bytes: &[u8]) -> Result<(), OversizedControlFrame> {
        self.header.extend(bytes);
        if self.header.len < self.header.needed() {
            return Ok(());
        }
        self.first = self.header.bytes[0];
        self.frame_left = self.header.payload_bytes();
        if self.is_data() {
            self.is_in_message = true;
        } else if self.frame_left > MAX_CONTROL_BYTES {
            return Err(OversizedControlFrame);
        }
        self.begin_piece();
        Ok(())
    }

    pub fn header_passed(&mut self, bytes: usize) {
        self.passed += bytes;
        self.end_piece();
    }

    pub fn payload_passed(&mut self, bytes: usize) {
        self.piece_left -= bytes as u64;
        self.end_piece();
    }

    /// Whether the frame belongs to a message.
    pub fn is_data(&self) -> bool {
        self.header.bytes[0] & CONTROL == 0
    }

    /// What is left of the frame's payload.
    pub fn payload_left(&self) -> u64 {
        self.piece_left + self.frame_left
    }

    /// Whether nothing of a message or of a frame has been read.
    pub fn is_between_messages(&self) -> bool {
        !self.is_in_message && self.header.len == 0
    }

    fn begin_piece(&mut self) {
        let fits = self.frame_left <= MAX_PIECE_BYTES || self.frame_left > self.max_frame_bytes;
        self.piece_left = if fits { self.frame_left } else { MAX_PIECE_BYTES };
        self.frame_left -= self.piece_left;
        let first = if self.frame_left == 0 { self.first } else { self.first & !FINAL };
        self.piece_header = self.header.with(first, self.piece_left);
        self.passed = 0;
        // The next piece continues this one.
        self.first &= FINAL;
    }

    fn end_piece(&mut self) {
        if self.passed < self.piece_header.len || self.piece_left > 0 {
            return;
        }
        if self.frame_left > 0 {
            self.begin_piece();
            return;
        }
        if self.is_data() && self.header.bytes[0] & FINAL != 0 {
            self.is_in_message = false;
        }
        self.header.len = 0;
    }
}

// === impl Header ===

impl Header {
    /// The length of the whole header, as far as its first bytes tell it.
    fn needed(&self) -> usize {
        if self.len < 2 {
            return 2;
        }
        let mask = if self.bytes[1] & MASKED == 0 { 0 } else { 4 };
        2 + self.length_bytes() + mask
    }

    fn length_bytes(&self) -> usize {
        match self.bytes[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn payload_bytes(&self) -> u64 {
        let length = &self.bytes[2..2 + self.length_bytes()];
        match length {
            [] => u64::from(self.bytes[1] & !MASKED),
            bytes => bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        }
    }

    /// The header of a frame with the same mask.
    fn with(&self, first: u8, payload_bytes: u64) -> Self {
        let masked = self.bytes[1] & MASKED;
        let mask = if masked == 0 { &[][..] } else { &self.bytes[self.len - 4..self.len] };
        let length = payload_bytes.to_be_bytes();
        let (short, length) = match payload_bytes {
            0..=125 => (length[7], &[][..]),
            126..=0xffff => (126, &length[6..]),
            _ => (127, &length[..]),
        };
        let mut header = Self::default();
        header.extend(&[first, masked | short]);
        header.extend(length);
        header.extend(mask);
        header
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    struct Frame {
        first: u8,
        mask: Option<[u8; 4]>,
        payload: Vec<u8>,
    }

    /// As it is on the wire: the payload masked.
    fn encode(frame: &Frame) -> Vec<u8> {
        let masked = if frame.mask.is_some() { MASKED } else { 0 };
        let len = frame.payload.len();
        let mut bytes = match len {
            0..126 => vec![frame.first, masked | u8::try_from(len).unwrap()],
            126..65_536 => {
                [&[frame.first, masked | 126][..], &u16::try_from(len).unwrap().to_be_bytes()].concat()
            }
            _ => [&[frame.first, masked | 127][..], &(len as u64).to_be_bytes()].concat(),
        };
        bytes.extend(frame.mask.unwrap_or_default().iter().take(if masked == 0 { 0 } else { 4 }));
        let mask = frame.mask.unwrap_or_default();
        bytes.extend(frame.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let mut header = Header::default();
            while header.len < header.needed() {
                let (next, rest) = bytes.split_at(header.needed() - header.len);
                header.extend(next);
                bytes = rest;
            }
            let (payload, rest) = bytes.split_at(usize::try_from(header.payload_bytes()).unwrap());
            bytes = rest;
            let mask = (header.bytes[1] & MASKED != 0)
                .then(|| header.bytes[header.len - 4..header.len].try_into().unwrap());
            let key: [u8; 4] = mask.unwrap_or_default();
            let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            frames.push(Frame { first: header.bytes[0], mask, payload });
        }
        frames
    }

    /// Splits bytes that arrive in portions of this size, and are passed on likewise.
    fn split(bytes: &[u8], portion: usize) -> Vec<u8> {
        let (mut splitter, mut out, mut at) = (FrameSplitter::new(1 << 20), Vec::new(), 0);
        loop {
            match splitter.step() {
                Step::ReadHeader(_) if at == bytes.len() => {
                    assert_eq!(splitter.header.len, 0);
                    return out;
                }
                Step::ReadHeader(wanted) => {
                    let count = wanted.min(portion);
                    splitter.push_header(&bytes[at..at + count]).unwrap();
                    at += count;
                }
                Step::PassHeader(header) => {
                    let count = header.len().min(portion);
                    out.extend_from_slice(&header[..count]);
                    splitter.header_passed(count);
                }
                Step::PassPayload(wanted) => {
                    let count = wanted.min(portion);
                    out.extend_from_slice(&bytes[at..at + count]);
                    at += count;
                    splitter.payload_passed(count);
                }
            }
        }
    }

    /// Joins continuations with what they continue. Control frames stand before the message that they interrupt.
    fn messages(frames: &[Frame]) -> Vec<(u8, Vec<u8>)> {
        let (mut messages, mut open) = (Vec::new(), None::<(u8, Vec<u8>)>);
        for frame in frames {
            if frame.first & CONTROL != 0 {
                messages.push((frame.first, frame.payload.clone()));
                continue;
            }
            let message = open.get_or_insert_with(|| (frame.first & !FINAL, Vec::new()));
            message.1.extend_from_slice(&frame.payload);
            if frame.first & FINAL != 0 {
                messages.extend(open.take());
            }
        }
        messages.extend(open);
        messages
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let length =
            prop_oneof![Just(0usize), 1..200usize, 4_090..4_110usize, Just(65_535usize), 60_000..70_000usize];
        let data = (any::<bool>(), 0u8..3, length)
            .prop_map(|(is_final, opcode, len)| (if is_final { FINAL | opcode } else { opcode }, len));
        let control = (8u8..11, 0..126usize).prop_map(|(opcode, len)| (FINAL | opcode, len));
        let kind = prop_oneof![3 => data, 1 => control];
        (kind, any::<Option<[u8; 4]>>(), any::<u8>()).prop_map(|((first, len), mask, seed)| {
            let payload = (0..len).map(|at| seed.wrapping_add(u8::try_from(at % 251).unwrap())).collect();
            Frame { first, mask, payload }
        })
    }

    proptest! {
        #[test]
        fn messages_stay_as_they_are_and_no_frame_is_large(
            frames in prop::collection::vec(frame(), 0..6),
            portion in prop_oneof![1..20usize, Just(100_000usize)],
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(encode).collect();
            let pieces = decode(&split(&bytes, portion));
            prop_assert!(pieces.iter().all(|piece| piece.payload.len() as u64 <= MAX_PIECE_BYTES));
            prop_assert_eq!(messages(&pieces), messages(&frames));
            let masks = |frames: &[Frame]| frames.iter().any(|frame| frame.mask.is_some());
            prop_assert_eq!(masks(&pieces), masks(&frames));
        }

        #[test]
        fn small_frames_pass_byte_for_byte(frame in frame(), portion in 1..20usize) {
            let bytes = encode(&frame);
            if frame.payload.len() as u64 <= MAX_PIECE_BYTES {
                prop_assert_eq!(split(&bytes, portion), bytes);
            }
        }
    }

    #[test]
    fn a_message_ends_with_its_last_frame() {
        let mut splitter = FrameSplitter::new(1 << 20);
        for (header, is_between) in
            [([0x01, 0], false), ([0x89, 0], false), ([0x80, 0], true), ([0x8a, 0], true), ([0x81, 0], true)]
        {
            splitter.push_header(&header).unwrap();
            assert!(!splitter.is_between_messages());
            splitter.header_passed(2);
            assert_eq!(splitter.is_between_messages(), is_between, "{header:?}");
        }
    }

    #[test]
    fn reserved_bits_and_frames_over_the_maximum_pass_unchanged() {
        for header in [&[0xf1, 127, 0, 0, 0, 0, 0, 0x20, 0, 0][..], &[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]] {
            let mut splitter = FrameSplitter::new(1 << 20);
            splitter.push_header(header).unwrap();
            assert_eq!(splitter.step(), Step::PassHeader(header));
        }
        let mut splitter = FrameSplitter::new(1 << 20);
        splitter.push_header(&[0xf1, 126, 0xff, 0xff]).unwrap();
        assert_eq!(splitter.step(), Step::PassHeader(&[0x71, 126, 0x10, 0x00]));
    }

    #[test]
    fn a_control_frame_that_is_too_large_is_an_error() {
        let mut splitter = FrameSplitter::new(1 << 20);
        splitter.push_header(&[0x89, 126, 0]).unwrap();
        splitter.push_header(&[126]).unwrap_err();
    }
}
