//! Where the parts of a JSON text stand, without decoding it.
//!
//! The scanner walks one level of an object or array and yields byte ranges. It trusts that the text is valid JSON
//! (callers [`validate`] what comes from outside); on other text it stops with [`Malformed`], and never panics.

mod check;
mod object;

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

impl Iterator for Members<'_> {
    type Item = Result<Member, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        advance(&mut self.scanner, &mut self.state, Brackets::OBJECT, |scanner| {
            scanner.expect_next(b'"')?;
            let start = scanner.at;
            let is_escaped = scanner.skip_string()?;
            let key = start..scanner.at;
            scanner.expect_next(b':')?;
            scanner.at += 1;
            scanner.skip_space();
            Ok(Member { key, value: scanner.value()?, is_escaped })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            r#"[\\"{}\[\],: \u{0}-\u{1f}]{0,12}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn spaced(value: &Value, pretty: bool) -> Vec<u8> {
        let text = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
        text.unwrap()
    }

    proptest! {
        #[test]
        fn members_and_elements_are_those_that_serde_json_finds(value in json(), pretty in any::<bool>()) {
            let text = spaced(&value, pretty);
            let value: Value = serde_json::from_slice(&text).unwrap();
            match &value {
                Value::Object(map) => {
                    let found: Vec<_> = members(&text).collect::<Result<_, _>>().unwrap();
                    prop_assert_eq!(found.len(), map.len());
                    for (member, (key, value)) in found.iter().zip(map) {
                        prop_assert!(member.is(&text, key));
                        let parsed: Value = serde_json::from_slice(&text[member.value.clone()]).unwrap();
                        prop_assert_eq!(&parsed, value);
                    }
                }
                Value::Array(values) => {
                    let found: Vec<_> = elements(&text).collect::<Result<_, _>>().unwrap();
                    prop_assert_eq!(found.len(), values.len());
                    for (range, value) in found.into_iter().zip(values) {
                        let parsed: Value = serde_json::from_slice(&text[range]).unwrap();
                        prop_assert_eq!(&parsed, value);
                    }
                }
                Value::String(inner) => prop_assert_eq!(string(&text), Some(Cow::Borrowed(inner.as_str()))),
                _ => prop_assert!(members(&text).next().unwrap().is_err()),
            }
        }

        #[test]
        fn the_fast_check_accepts_what_is_valid(value in json(), pretty in any::<bool>()) {
            let text = spaced(&value, pretty);
            prop_assert!(check::is_valid(&text));
            let found = members(&text).collect::<Result<Vec<_>, _>>();
            let mut checked = Vec::new();
            if check::members(&text, |member| { checked.push(member); true }) {
                prop_assert_eq!(found.unwrap(), checked);
            } else {
                prop_assert!(!value.is_object());
            }
        }

        #[test]
        fn the_fast_check_accepts_nothing_that_serde_json_refuses(
            value in json(), pretty in any::<bool>(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), r#"[ -~]|[\n\t\u{0}\u{7f}]"#), 1..4),
        ) {
            let mut text = spaced(&value, pretty);
            for (at, inserts, byte) in edits {
                let at = at.index(text.len());
                if inserts { text.insert(at, byte.as_bytes()[0]) } else { text[at] = byte.as_bytes()[0] }
            }
            let is_valid = serde_json::from_slice::<&RawValue>(&text).is_ok();
            prop_assert!(is_valid || !check::is_valid(&text));
            let is_object = is_valid && text.trim_ascii_start().first() == Some(&b'{');
            prop_assert!(is_object || !check::members(&text, |_| true));
        }

        #[test]
        fn the_fast_check_and_serde_json_agree_on_short_texts(text in r#"[{}\[\]",:\\ aun0129.eE+\-truefalsn]{0,12}"#) {
            let is_valid = serde_json::from_slice::<&RawValue>(text.as_bytes()).is_ok();
            prop_assert_eq!(check::is_valid(text.as_bytes()), is_valid, "{}", text);
        }

        #[test]
        fn no_text_makes_the_scanner_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            members(&text).for_each(drop);
            elements(&text).for_each(drop);
        }

        #[test]
        fn no_text_of_json_characters_makes_the_scanner_panic(text in r#"[{}\[\]",:\\ a1]{0,40}"#) {
            members(text.as_bytes()).for_each(drop);
            elements(text.as_bytes()).for_each(drop);
        }
    }

    #[test]
    fn an_escaped_key_is_recognised() {
        let text = br#"{"mod\u0065l":"a","model":"b"}"#;
        assert_eq!(members(text).filter(|m| m.as_ref().is_ok_and(|m| m.is(text, "model"))).count(), 2);
        assert_eq!(member(text, "model"), Some(&br#""b""#[..]));
    }

    #[test]
    fn names_that_some_parsers_take_for_the_same_differ_by_case_alone() {
        for key in ["Store", "STORE", "\u{17f}tore", "\u{17f}TORE"] {
            assert!(differ_by_case(key, "store"), "{key}");
        }
        assert!(differ_by_case("\u{212a}ind", "kind") && differ_by_case("\u{131}d", "id"));
        for key in ["store", "stor", "stores", "st\u{f6}re", ""] {
            assert!(!differ_by_case(key, "store"), "{key}");
        }
    }

    #[test]
    fn members_are_set_in_place_and_missing_ones_are_added() {
        let set = [
            Set { name: "id", value: b"1", add: true },
            Set { name: "store", value: b"true", add: true },
            Set { name: "conversation", value: b"null", add: false },
        ];
        let apply = |object: &str| {
            let mut out = Vec::new();
            set_members(object.as_bytes(), &set, &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        assert_eq!(apply(r#"{ "a":1.0e2, "id" : "x" }"#).unwrap(), r#"{ "a":1.0e2, "id" : 1,"store":true }"#);
        assert_eq!(apply("{ }").unwrap(), r#"{"id":1,"store":true }"#);
        assert_eq!(
            apply(r#"{"conversation":{"id":2},"store":null,"id":3}"#).unwrap(),
            r#"{"conversation":null,"store":true,"id":1}"#
        );
        assert!(apply("[]").is_err() && apply("{\"a\"").is_err());
    }

    #[test]
    fn a_truncated_object_is_malformed() {
        for text in
            [&b"{"[..], b"{\"a\"", b"{\"a\":", b"{\"a\":1", b"{\"a\":\"x", b"{\"a\":\"x\\", b"[1", b"", b"  "]
        {
            let whole = members(text).chain(std::iter::empty()).all(|m| m.is_ok());
            assert!(!whole || text.first() == Some(&b'['), "{}", String::from_utf8_lossy(text));
        }
    }
}
