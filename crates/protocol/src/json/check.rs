//! A fast check of JSON texts: it accepts nothing that is not valid, and leaves it to serde_json to say what is wrong with the
//! rest.

use super::Member;

/// Whether the text is certainly one JSON value, in valid UTF-8.
pub(super) fn is_valid(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok() && Checker { text, at: 0 }.whole().is_some()
}

/// Whether the text is certainly a JSON object in valid UTF-8. Shows the members of its top level, in order; a `false` ends
/// the check.
pub(super) fn members(text: &[u8], found: impl FnMut(Member) -> bool) -> bool {
    std::str::from_utf8(text).is_ok() && Checker { text, at: 0 }.object(found).is_some()
}

/// How many bytes of a string stand before its next quote, backslash or control character. It looks at eight bytes at once:
/// most of a reply is strings, and a loop over bytes takes twice as long.
#[inline]
pub(super) fn plain_bytes(text: &[u8]) -> Option<usize> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    // The lowest high bit that is set marks the first byte below the bound.
    let below = |word: u64, bound: u8| word.wrapping_sub(EACH * u64::from(bound)) & !word & HIGH;
    let equal = |word: u64, byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    let (mut done, mut rest) = (0, text);
    while let Some((word, after)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word);
        let ends = equal(word, b'"') | equal(word, b'\\') | below(word, b' ');
        if ends != 0 {
            return Some(done + ends.trailing_zeros() as usize / 8);
        }
        (done, rest) = (done + size_of_val(&word), after);
    }
    let in_rest = rest.iter().position(|&byte| byte < b' ' || byte == b'"' || byte == b'\\');
    in_rest.map(|index| done + index)
}

/// Each step yields `None` where the text is not valid.
struct Checker<'a> {
    text: &'a [u8],
    at: usize,
}

// === impl Checker ===

impl Checker<'_> {
    fn whole(mut self) -> Option<()> {
        self.value()?;
        self.end()
    }

    fn object(mut self, mut found: impl FnMut(Member) -> bool) -> Option<()> {
        self.expect(b'{')?;
        if self.next()? == b'}' {
            return self.end();
        }
        self.at -= 1;
        loop {
            let key_start = self.skip_space()?;
            let is_escaped = self.key()?;
            let key = key_start..self.at;
            self.expect(b':')?;
            let value_start = self.skip_space()?;
            self.value()?;
            let value = value_start..self.at;
            if !found(Member { key, value, is_escaped }) {
                return None;
            }
            match self.next()? {
                b',' => {}
                b'}' => return self.end(),
                _ => return None,
            }
        }
    }

    fn value(&mut self) -> Option<()> {
        match self.next()? {
            bracket @ (b'{' | b'[') => self.nested(bracket),
            first => self.scalar(first),
        }
    }

    #[inline]
    fn scalar(&mut self, first: u8) -> Option<()> {
        match first {
            b'"' => self.rest_of_string().map(|_| ()),
            b't' => self.literal(*b"rue"),
            b'f' => self.literal(*b"alse"),
            b'n' => self.literal(*b"ull"),
            b'-' | b'0'..=b'9' => self.rest_of_number(first),
            _ => None,
        }
    }

    /// The rest of an object or array, however deep: the brackets that are open are on a stack. `first` is where a value begins.
    fn nested(&mut self, mut first: u8) -> Option<()> {
        let mut open = Vec::new();
        loop {
            if let b'{' | b'[' = first {
                let close = first + 2;
                if self.next()? != close {
                    self.at -= 1;
                    open.push(close);
                    if close == b'}' {
                        self.member_name()?;
                    }
                    first = self.next()?;
                    continue;
                }
            } else {
                self.scalar(first)?;
            }
            loop {
                let Some(&close) = open.last() else { return Some(()) };
                match self.next()? {
                    b',' if close == b'}' => break self.member_name()?,
                    b',' => break,
                    next if next == close => open.pop(),
                    _ => return None,
                };
            }
            first = self.next()?;
        }
    }

    fn member_name(&mut self) -> Option<()> {
        self.key()?;
        self.expect(b':')
    }

    /// Whether the key has escapes.
    #[inline]
    fn key(&mut self) -> Option<bool> {
        self.expect(b'"')?;
        self.rest_of_string()
    }

    /// Whether the string has escapes.
    #[inline]
    fn rest_of_string(&mut self) -> Option<bool> {
        let mut is_escaped = false;
        loop {
            self.at += plain_bytes(self.text.get(self.at..)?)? + 1;
            match self.text[self.at - 1] {
                b'"' => return Some(is_escaped),
                b'\\' => self.escape()?,
                _ => return None,
            }
            is_escaped = true;
        }
    }

    #[cold]
    fn escape(&mut self) -> Option<()> {
        let escaped = *self.text.get(self.at)?;
        self.at += 1;
        match escaped {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    fn rest_of_number(&mut self, first: u8) -> Option<()> {
        let first = if first == b'-' { self.next_byte()? } else { first };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.skip_digits(),
            _ => return None,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Option<()> {
        self.next_byte()?.is_ascii_digit().then(|| self.skip_digits())
    }

    fn skip_digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    #[inline]
    fn literal<const N: usize>(&mut self, rest: [u8; N]) -> Option<()> {
        let found: &[u8; N] = self.text.get(self.at..)?.first_chunk()?;
        (*found == rest).then(|| self.at += N)
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// The next byte that is no space.
    #[inline]
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = self.next_byte()?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
        }
    }

    /// The position of the next byte that is no space.
    fn skip_space(&mut self) -> Option<usize> {
        while matches!(self.peek()?, b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
        Some(self.at)
    }

    #[inline]
    fn next_byte(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Nothing but spaces may follow.
    fn end(mut self) -> Option<()> {
        self.skip_space().is_none().then_some(())
    }
}
