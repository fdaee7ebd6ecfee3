//! Where the parts of a JSON text stand, without decoding it.
//!
//! The scanner walks one level of an object or array and yields byte ranges. It trusts that the text is valid JSON
//! (callers [`validate`] what comes from outside); on other text it stops with [`Malformed`], and never panics.

mod check;
mod object;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;

pub use self::object::{Object, Set, parse_members};

/// The text is not the JSON that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON at byte {at}")]
pub struct Malformed {
    pub at: usize,
}

/// Where one member of an object stands in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The key's text with its quotes.
    pub key: Range<usize>,
    pub value: Range<usize>,
    /// Whether the key has escapes.
    pub is_escaped: bool,
}

/// The members of an object's top level, in order.
pub struct Members<'a> {
    scanner: Scanner<'a>,
    state: State,
}

/// The elements of an array's top level, in order.
pub struct Elements<'a> {
    scanner: Scanner<'a>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    More,
    Done,
}

/// What an object or an array stands between.
#[derive(Clone, Copy)]
struct Brackets {
    open: u8,
    close: u8,
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// Checks that the text is one JSON value, in valid UTF-8.
pub fn validate(text: &[u8]) -> Result<(), serde_json::Error> {
    if check::is_valid(text) {
        return Ok(());
    }
    serde_json::from_slice::<&RawValue>(text).map(|_| ())
}

/// Walks the members of the object that the text is.
pub fn members(text: &[u8]) -> Members<'_> {
    Members { scanner: Scanner { text, at: 0 }, state: State::Start }
}

/// Walks the elements of the array that the text is.
pub fn elements(text: &[u8]) -> Elements<'_> {
    Elements { scanner: Scanner { text, at: 0 }, state: State::Start }
}

/// The value of a member. Of several with the same name the last one counts, as it does for most parsers.
pub fn member<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut found = None;
    for member in members(text) {
        let member = member.ok()?;
        if member.is(text, name) {
            found = Some(&text[member.value]);
        }
    }
    found
}

/// The text of a JSON string, its escapes resolved; `None` if the value is no string.
pub fn string(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice(value).ok().map(Cow::Owned)
}

/// The string member of an object.
pub fn string_member<'a>(text: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    member(text, name).and_then(string)
}

/// Copies an object with some members' values replaced; everything else stays as it is, byte for byte.
pub fn set_members(object: &[u8], set: &[Set<'_>], out: &mut Vec<u8>) -> Result<(), Malformed> {
    Object::scan(object)?.set(set, out);
    Ok(())
}

/// Writes a string as JSON, with its quotes.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes every write");
}

/// Whether two names differ by the case of their letters alone. Parsers that ignore case disagree on letters beyond ASCII,
/// such as the Kelvin sign, so each that any of them could take for `name`'s counts.
pub fn differ_by_case(key: &str, name: &str) -> bool {
    if key.is_ascii() {
        return key != name && key.eq_ignore_ascii_case(name);
    }
    let folds = |letter: char, ascii: char| {
        letter.to_lowercase().next() == Some(ascii.to_ascii_lowercase())
            || letter.to_uppercase().next() == Some(ascii.to_ascii_uppercase())
    };
    key.chars().count() == name.len()
        && key.chars().zip(name.chars()).all(|(letter, ascii)| folds(letter, ascii))
}

/// What kind of value this is, with its article, for error messages.
pub fn kind(value: &[u8]) -> &'static str {
    match value.first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) if value.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) => "a decimal",
        _ => "an integer",
    }
}

// === impl Brackets ===

impl Brackets {
    const OBJECT: Self = Self { open: b'{', close: b'}' };
    const ARRAY: Self = Self { open: b'[', close: b']' };
}

// === impl Member ===

impl Member {
    /// Whether the key is this name, however it is escaped.
    pub fn is(&self, text: &[u8], name: &str) -> bool {
        let key = &text[self.key.clone()];
        let inner = &key[1..key.len() - 1];
        if !self.is_escaped {
            return inner == name.as_bytes();
        }
        self.may_be(name.len()) && string(key).is_some_and(|key| key == name)
    }

    /// The key, unless it is too long to be a name of this many ASCII letters: a long key is not decoded for nothing.
    pub fn short_key<'a>(&self, text: &'a [u8], letters: usize) -> Option<Cow<'a, str>> {
        if self.may_be(letters) { string(&text[self.key.clone()]) } else { None }
    }

    /// No escape takes more than six bytes a letter.
    fn may_be(&self, letters: usize) -> bool {
        self.key.len() <= 6 * letters + 2
    }

    /// From the key's first byte to the value's last.
    pub fn span(&self) -> Range<usize> {
        self.key.start..self.value.end
    }
}

// === impl Members, Elements ===

impl<'a> Members<'a> {
    /// The next member. `value` steps over its value and says where that stood.
    fn next_with(
        &mut self,
        value: impl FnOnce(&mut Scanner<'a>, &Member) -> Result<Range<usize>, Malformed>,
    ) -> Option<Result<Member, Malformed>> {
        advance(&mut self.scanner, &mut self.state, Brackets::OBJECT, |scanner| {
            scanner.expect_next(b'"')?;
            let start = scanner.at;
            let is_escaped = scanner.skip_string()?;
            let key = start..scanner.at;
            scanner.expect_next(b':')?;
            scanner.at += 1;
            scanner.skip_space();
            let mut member = Member { key, value: scanner.at..scanner.at, is_escaped };
            member.value = value(scanner, &member)?;
            Ok(member)
        })
    }
}

impl Iterator for Members<'_> {
    type Item = Result<Member, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_with(|scanner, _| scanner.value())
    }
}

impl Elements<'_> {
    /// The next element. If it is an object, its members are found in the same pass; `show` gets them. They stand in the
    /// text of the array.
    pub fn next_showing(&mut self, mut show: impl FnMut(&Member)) -> Option<Result<Range<usize>, Malformed>> {
        advance(&mut self.scanner, &mut self.state, Brackets::ARRAY, |scanner| {
            if scanner.peek() != Some(Brackets::OBJECT.open) {
                return scanner.value();
            }
            let start = scanner.at;
            let mut members =
                Members { scanner: Scanner { text: scanner.text, at: start }, state: State::Start };
            for member in members.by_ref() {
                show(&member?);
            }
            // The walk stops at the closing bracket.
            scanner.at = members.scanner.at + 1;
            Ok(start..scanner.at)
        })
    }
}

impl Iterator for Elements<'_> {
    type Item = Result<Range<usize>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        advance(&mut self.scanner, &mut self.state, Brackets::ARRAY, Scanner::value)
    }
}

/// One step of a walk: the opening bracket or a comma, then the part, or the closing bracket.
fn advance<'a, T>(
    scanner: &mut Scanner<'a>,
    state: &mut State,
    brackets: Brackets,
    part: impl FnOnce(&mut Scanner<'a>) -> Result<T, Malformed>,
) -> Option<Result<T, Malformed>> {
    let step = || -> Result<Option<T>, Malformed> {
        match state {
            State::Done => return Ok(None),
            State::Start => {
                scanner.expect_next(brackets.open)?;
                scanner.at += 1;
                scanner.skip_space();
                if scanner.peek() == Some(brackets.close) {
                    return Ok(None);
                }
            }
            State::More => {
                scanner.skip_space();
                if scanner.peek() == Some(brackets.close) {
                    return Ok(None);
                }
                scanner.expect_next(b',')?;
                scanner.at += 1;
                scanner.skip_space();
            }
        }
        part(scanner).map(Some)
    };
    let result = step().transpose();
    *state = if matches!(result, Some(Ok(_))) { State::More } else { State::Done };
    result
}

// === impl Scanner ===

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn malformed<T>(&self) -> Result<T, Malformed> {
        Err(Malformed { at: self.at })
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect_next(&mut self, byte: u8) -> Result<(), Malformed> {
        self.skip_space();
        if self.peek() == Some(byte) { Ok(()) } else { self.malformed() }
    }

    /// Steps over one value and says where it stood.
    fn value(&mut self) -> Result<Range<usize>, Malformed> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => {
                self.skip_string()?;
            }
            Some(b'{' | b'[') => self.skip_nested()?,
            Some(b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                while matches!(self.peek(), Some(b) if !matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'))
                {
                    self.at += 1;
                }
            }
            _ => return self.malformed(),
        }
        Ok(start..self.at)
    }

    /// Whether the string has escapes.
    fn skip_string(&mut self) -> Result<bool, Malformed> {
        self.at += 1;
        let mut is_escaped = false;
        loop {
            let Some(n) = check::plain_bytes(self.text.get(self.at..).unwrap_or_default()) else {
                return self.malformed();
            };
            self.at += n + 1;
            match self.text[self.at - 1] {
                b'"' => return Ok(is_escaped),
                b'\\' => (self.at, is_escaped) = (self.at + 1, true),
                _ => {}
            }
        }
    }

    fn skip_nested(&mut self) -> Result<(), Malformed> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.skip_string()?;
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth -= 1,
                Some(_) => {}
                None => return self.malformed(),
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }
}
