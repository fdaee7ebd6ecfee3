//! An object whose members are found once, and then looked at and replaced as often as is needed.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Malformed, Member, Members, Scanner, check, members, write_string};

/// An object with more members than this is taken for malformed: what an upstream sends must not take any amount of memory.
const MAX_MEMBERS: usize = 100_000;

/// A text and where the members of its top level stand.
#[derive(Debug)]
pub struct Object<'a> {
    pub text: &'a [u8],
    pub members: Vec<Member>,
}

/// What to do with a member of an object.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    pub name: &'a str,
    pub value: &'a [u8],
    /// Whether to add the member where the object has none.
    pub add: bool,
}

// === impl Object ===

impl<'a> Object<'a> {
    /// Takes the text apart and checks, in the same pass, that all of it is valid JSON in valid UTF-8.
    pub fn parse(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        let mut members = Vec::with_capacity(32);
        if !check::members(text, |member| add(&mut members, member)) {
            // serde_json says what is wrong with it.
            members.clear();
            parse_members(text, |member| add(&mut members, member))?;
        }
        Ok(Self { text, members })
    }

    /// Takes a text apart that is known to be valid JSON.
    pub fn scan(text: &'a [u8]) -> Result<Self, Malformed> {
        let members = collect(&mut members(text), |scanner, _| scanner.value())?;
        Ok(Self { text, members })
    }

    /// As [`scan`](Self::scan), of the object that the text begins with.
    pub fn scan_first(text: &'a [u8]) -> Result<Self, Malformed> {
        let mut walk = members(text);
        let members = collect(&mut walk, |scanner, _| scanner.value())?;
        // The walk stops at the closing bracket.
        Ok(Self { text: &text[..=walk.scanner.at], members })
    }

    /// As [`scan`](Self::scan), but `length` says how long the value of each member with this name is. It gets the text
    /// from the value on.
    pub fn scan_around(
        text: &'a [u8],
        name: &str,
        mut length: impl FnMut(&'a [u8]) -> Result<usize, Malformed>,
    ) -> Result<Self, Malformed> {
        let members = collect(&mut members(text), |scanner, member| {
            if !member.is(text, name) {
                return scanner.value();
            }
            let start = scanner.at;
            scanner.at +=
                length(&text[start..]).map_err(|malformed| Malformed { at: start + malformed.at })?;
            Ok(start..scanner.at)
        })?;
        Ok(Self { text, members })
    }

    pub fn value(&self, member: &Member) -> &'a [u8] {
        &self.text[member.value.clone()]
    }

    /// The member with this name. Of several the last one counts, as it does for most parsers.
    pub fn find(&self, name: &str) -> Option<&Member> {
        self.members.iter().rev().find(|member| member.is(self.text, name))
    }

    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.find(name).map(|member| self.value(member))
    }

    /// Copies the object with some members' values replaced; everything else stays as it is, byte for byte.
    pub fn set(&self, set: &[Set<'_>], out: &mut Vec<u8>) {
        // A bit for each of the set.
        let mut seen = 0_u64;
        debug_assert!(set.len() <= 64, "no caller sets more members");
        let mut copied = 0;
        for member in &self.members {
            if let Some(n) = set.iter().position(|set| member.is(self.text, set.name)) {
                out.extend_from_slice(&self.text[copied..member.value.start]);
                out.extend_from_slice(set[n].value);
                copied = member.value.end;
                seen |= 1 << n;
            }
        }
        let end = match self.members.last() {
            Some(last) => last.value.end,
            None => memchr::memchr(b'{', self.text).map_or(0, |brace| brace + 1),
        };
        out.extend_from_slice(&self.text[copied..end]);
        let mut is_empty = self.members.is_empty();
        let missing = set.iter().enumerate().filter(|(n, set)| set.add && seen & (1 << n) == 0);
        for (_, set) in missing {
            if !std::mem::take(&mut is_empty) {
                out.push(b',');
            }
            write_string(out, set.name);
            out.push(b':');
            out.extend_from_slice(set.value);
        }
        out.extend_from_slice(&self.text[end..]);
    }
}

/// All members of a walk; `value` steps over their values.
fn collect<'a>(
    walk: &mut Members<'a>,
    mut value: impl FnMut(&mut Scanner<'a>, &Member) -> Result<Range<usize>, Malformed>,
) -> Result<Vec<Member>, Malformed> {
    let mut all = Vec::with_capacity(32);
    while let Some(member) = walk.next_with(&mut value) {
        let member = member?;
        if all.len() == MAX_MEMBERS {
            return Err(Malformed { at: member.key.start });
        }
        all.push(member);
    }
    Ok(all)
}

/// Whether there is room for more.
fn add(members: &mut Vec<Member>, member: Member) -> bool {
    members.push(member);
    members.len() <= MAX_MEMBERS
}

/// Checks that a text is an object of valid JSON in valid UTF-8, and shows each member of its top level, in order. Nothing of
/// it is kept. A `false` ends it with an error.
pub fn parse_members(text: &[u8], found: impl FnMut(Member) -> bool) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    deserializer.deserialize_map(Parts { text, found })?;
    deserializer.end()
}

/// Says where keys and values stand in the text that is being read.
struct Parts<'a, F> {
    text: &'a [u8],
    found: F,
}

impl<'de, F: FnMut(Member) -> bool> Visitor<'de> for Parts<'de, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
        let text = self.text;
        let span = |raw: &'de RawValue| {
            let start = raw.get().as_ptr() as usize - text.as_ptr() as usize;
            start..start + raw.get().len()
        };
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let is_escaped = key.get().contains('\\');
            if !(self.found)(Member { key: span(key), value: span(value), is_escaped }) {
                return Err(M::Error::custom("too many members"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::validate;

    #[test]
    fn a_text_that_is_no_valid_object_is_refused() {
        for text in
            ["", "[1]", "{", r#"{"a":1}x"#, r#"{"a":1,}"#, r#"{"a":tru}"#, r#"{a:1}"#, "{\"a\":\"\n\"}"]
        {
            assert!(Object::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_err());
        assert!(Object::parse("{\"a\":1,\n\"b\":,}".as_bytes()).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn nesting_has_no_limit_of_its_own() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(Object::parse(deep.as_bytes()).unwrap().members.len(), 1);
    }

    #[test]
    fn an_object_of_too_many_members_is_malformed() {
        let text = |members| format!("{{{}}}", vec![r#""":0"#; members].join(","));
        assert!(Object::parse(text(MAX_MEMBERS).as_bytes()).is_ok());
        assert!(Object::scan(text(MAX_MEMBERS).as_bytes()).is_ok());
        assert!(Object::parse(text(MAX_MEMBERS + 1).as_bytes()).is_err());
        assert!(Object::scan(text(MAX_MEMBERS + 1).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn both_ways_find_the_same_members(
            keys in proptest::collection::vec(r#"([a-z]|\\"|\\u00e9|\\\\|é){0,6}"#, 0..6),
            value in r#"( |\n)?(null|-1.50e3|"[a-z{}\[\],:]*"|\[ \]|\{"x" : [1,2]\})( )?"#,
        ) {
            let members: Vec<String> = keys.iter().map(|key| format!(r#" "{key}" : {value}"#)).collect();
            let text = format!(" {{{} }} ", members.join(","));
            let scanned = Object::scan(text.as_bytes());
            match Object::parse(text.as_bytes()) {
                Ok(parsed) => prop_assert_eq!(parsed.members, scanned.unwrap().members),
                Err(_) => prop_assert!(validate(text.as_bytes()).is_err()),
            }
        }
    }
}
