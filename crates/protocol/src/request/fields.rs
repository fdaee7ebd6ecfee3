//! The members of a request that the gateway reads, replaces or removes, and where they stand.

use bytes::Bytes;

use super::{Wanted, invalid, not_an_object};
use crate::error::ApiError;
use crate::json::{self, Member};

/// A member that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Model,
    Input,
    PreviousResponseId,
    Conversation,
    Store,
    Stream,
    StreamOptions,
    Background,
    Include,
    Metadata,
    PromptCacheKey,
    MaxOutputTokens,
    /// Only means something on a WebSocket.
    Generate,
    /// Only means something on a WebSocket.
    StreamId,
    ClientMetadata,
    /// The `type` of a frame; over HTTP it is a member like others.
    Type,
    /// A response shows it.
    Shown,
}

const FIELDS: [(&str, Field); 27] = [
    ("model", Field::Model),
    ("input", Field::Input),
    ("previous_response_id", Field::PreviousResponseId),
    ("conversation", Field::Conversation),
    ("store", Field::Store),
    ("stream", Field::Stream),
    ("stream_options", Field::StreamOptions),
    ("background", Field::Background),
    ("include", Field::Include),
    ("metadata", Field::Metadata),
    ("prompt_cache_key", Field::PromptCacheKey),
    ("max_output_tokens", Field::MaxOutputTokens),
    ("generate", Field::Generate),
    ("stream_id", Field::StreamId),
    ("client_metadata", Field::ClientMetadata),
    ("type", Field::Type),
    ("instructions", Field::Shown),
    ("parallel_tool_calls", Field::Shown),
    ("reasoning", Field::Shown),
    ("safety_identifier", Field::Shown),
    ("temperature", Field::Shown),
    ("text", Field::Shown),
    ("tool_choice", Field::Shown),
    ("tools", Field::Shown),
    ("top_p", Field::Shown),
    ("truncation", Field::Shown),
    ("user", Field::Shown),
];

/// Of the longest of these names.
const MAX_LETTERS: usize = "previous_response_id".len();

/// What a key names.
enum Named {
    /// By its place among [`FIELDS`].
    Known(usize),
    /// A known member in another case. An upstream may ignore case, and would be sent what was not checked here.
    Misspelled(String),
    Other,
}

/// A request's text, and where its known members stand in it, each at most once. Nothing is kept for the others, so a request
/// takes no more memory however many members it has.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    text: Bytes,
    /// In order; with the place of the name among [`FIELDS`].
    known: Vec<(usize, Member)>,
    /// The first key that is a known name in another case.
    misspelled: Option<String>,
}

/// A stretch of a request.
pub(crate) enum Stretch<'a> {
    Known {
        field: Field,
        key: &'a [u8],
        value: &'a [u8],
    },
    /// Members that are not looked at, with the commas between them.
    Others(&'a [u8]),
}

// === impl Members ===

impl Members {
    /// Takes a body apart while that is wanted. Of a member that stands there twice the last one counts, as it does for most
    /// parsers: the others are left out of the text.
    pub(crate) fn parse(text: Bytes, wanted: Wanted<'_>) -> Result<Self, ApiError> {
        let mut members = Self { text, known: Vec::with_capacity(16), misspelled: None };
        let text = members.text.clone();
        let mut has_repeated = false;
        let parsed = json::parse_members(&text, |member| {
            has_repeated |= members.add(member);
            wanted()
        });
        parsed.map_err(|error| not_an_object(&text, &error))?;
        Ok(if has_repeated { members.without_repeated() } else { members })
    }

    /// Notes a known member; `true` if there was one with its name before.
    fn add(&mut self, member: Member) -> bool {
        match named(&self.text, &member) {
            Named::Other => {}
            Named::Misspelled(key) => self.misspelled = self.misspelled.take().or(Some(key)),
            Named::Known(name) => match self.known.iter_mut().find(|(known, _)| *known == name) {
                Some((_, earlier)) => {
                    *earlier = member;
                    return true;
                }
                None => self.known.push((name, member)),
            },
        }
        false
    }

    /// Writes the text anew with the last of each known member alone.
    fn without_repeated(self) -> Self {
        let mut text = Vec::with_capacity(self.text.len());
        let mut known = Vec::with_capacity(self.known.len());
        for member in json::members(&self.text).map_while(Result::ok) {
            let counts = self.known.iter().find(|(_, last)| *last == member);
            if counts.is_none() && matches!(named(&self.text, &member), Named::Known(_)) {
                continue;
            }
            text.push(if text.is_empty() { b'{' } else { b',' });
            let key = text.len()..text.len() + member.key.len();
            text.extend_from_slice(&self.text[member.key.clone()]);
            text.push(b':');
            let value = text.len()..text.len() + member.value.len();
            text.extend_from_slice(&self.text[member.value]);
            let is_escaped = member.is_escaped;
            known.extend(counts.map(|(name, _)| (*name, Member { key, value, is_escaped })));
        }
        text.push(b'}');
        Self { text: text.into(), known, misspelled: self.misspelled }
    }

    /// Refuses what an upstream may take for a known member.
    pub(crate) fn check_spelling(&self) -> Result<(), ApiError> {
        match &self.misspelled {
            None => Ok(()),
            Some(key) => Err(unknown_parameter(key)),
        }
    }

    pub(crate) fn text(&self) -> &Bytes {
        &self.text
    }

    pub(crate) fn get(&self, field: Field) -> Option<&[u8]> {
        let (_, member) = self.known.iter().find(|(name, _)| FIELDS[*name].1 == field)?;
        Some(&self.text[member.value.clone()])
    }

    /// As [`get`](Self::get), unless it is null.
    pub(crate) fn value(&self, field: Field) -> Option<&[u8]> {
        self.get(field).filter(|value| *value != b"null")
    }

    /// A known member by its name, unless it is null.
    pub(crate) fn named(&self, wanted: &str) -> Option<&[u8]> {
        let (_, member) = self.known.iter().find(|(name, _)| FIELDS[*name].0 == wanted)?;
        Some(&self.text[member.value.clone()]).filter(|value| *value != b"null")
    }

    /// All of the request, in order.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = Stretch<'_>> {
        let text = &self.text[..];
        let start = memchr::memchr(b'{', text).map_or(0, |brace| brace + 1);
        let end = memchr::memrchr(b'}', text).unwrap_or(text.len());
        let ends = self.known.iter().map(|(_, member)| member.value.end);
        let starts = self.known.iter().map(|(_, member)| member.key.start).chain([end]);
        let others = [start].into_iter().chain(ends).zip(starts).map(move |(from, to)| {
            let is_between = |byte: &u8| matches!(byte, b',' | b' ' | b'\n' | b'\r' | b'\t');
            let others = &text[from..to];
            let first = others.iter().position(|byte| !is_between(byte)).unwrap_or(others.len());
            let last = others.iter().rposition(|byte| !is_between(byte)).map_or(first, |last| last + 1);
            Some(&others[first..last]).filter(|others| !others.is_empty()).map(Stretch::Others)
        });
        let known = self.known.iter().map(move |(name, member)| Stretch::Known {
            field: FIELDS[*name].1,
            key: &text[member.key.clone()],
            value: &text[member.value.clone()],
        });
        others.zip(known.map(Some).chain([None])).flat_map(|(others, known)| [others, known]).flatten()
    }
}

fn named(text: &[u8], member: &Member) -> Named {
    let Some(key) = member.short_key(text, MAX_LETTERS) else { return Named::Other };
    let is_ascii = key.is_ascii();
    // Letters beyond ASCII take more bytes than the ones that they may be taken for.
    let alike = (0..FIELDS.len()).filter(|n| !is_ascii || FIELDS[*n].0.len() == key.len());
    for n in alike {
        if FIELDS[n].0 == key {
            return Named::Known(n);
        }
        if json::differ_by_case(&key, FIELDS[n].0) {
            return Named::Misspelled(key.into_owned());
        }
    }
    Named::Other
}

/// As the API words it.
pub(crate) fn unknown_parameter(name: &str) -> ApiError {
    invalid("unknown_parameter", Some(name), format!("Unknown parameter: '{name}'."))
}

/// A number as servers take it: some accept `9.0` and `"9"` for 9. `None` if the value is no number, or a negative one.
pub(super) fn lenient_number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim_matches('"').trim();
    let rounded = || text.parse::<f64>().ok().filter(|number| *number >= 0.0).map(|number| number as u64);
    text.parse().ok().or_else(rounded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn parse(text: impl Into<Bytes>) -> Members {
        Members::parse(text.into(), &|| true).unwrap()
    }

    /// The request put together again.
    fn joined(members: &Members) -> Vec<u8> {
        let stretches = members.stretches().map(|stretch| match stretch {
            Stretch::Known { key, value, .. } => [key, b":", value].concat(),
            Stretch::Others(others) => others.to_vec(),
        });
        [b"{", stretches.collect::<Vec<_>>().join(&b","[..]).as_slice(), b"}"].concat()
    }

    proptest! {
        #[test]
        fn of_repeated_members_the_last_counts_and_others_stay_as_they_are(
            all in proptest::collection::vec(
                (r#"model|mod\\u0065l|input|store|type|a|b|\\u0061|models|x{130}"#, r#"( |\n)?(1|"[{},: ]?"|\[ ?\]|\{"model":2\})( )?"#),
                0..9,
            ),
        ) {
            let text: Vec<String> = all.iter().map(|(key, value)| format!(" \"{key}\" :{value}")).collect();
            let text = format!(" {{{} }}\n", text.join(","));
            let expected: Value = serde_json::from_str(&text).unwrap();
            let members = parse(text);
            prop_assert_eq!(serde_json::from_slice::<Value>(&joined(&members)).unwrap(), expected.clone());
            for (name, field) in [("model", Field::Model), ("input", Field::Input), ("store", Field::Store)] {
                let found = members.get(field).map(|value| serde_json::from_slice::<Value>(value).unwrap());
                prop_assert_eq!(found.as_ref(), expected.get(name));
                prop_assert_eq!(members.known.iter().filter(|(known, _)| FIELDS[*known].0 == name).count(), usize::from(found.is_some()));
            }
        }
    }

    #[test]
    fn any_number_of_members_leaves_only_the_known_ones_to_be_kept() {
        const MANY: usize = 100_000;
        for member in [r#""store":0,"#, r#""":0,"#, r#""a":0,"store":0,"input":0,"#] {
            let members = parse(format!("{{{}\"model\":1}}", member.repeat(MANY)));
            assert!(members.known.len() <= 3 && members.known.capacity() <= 16);
            assert_eq!(members.get(Field::Model), Some(&b"1"[..]));
            assert!(members.stretches().count() <= 5);
        }
    }

    #[test]
    fn every_known_member_is_refused_in_another_case() {
        for (name, _) in FIELDS {
            let escaped = format!("\\u00{:02x}{}", name.as_bytes()[0].to_ascii_uppercase(), &name[1..]);
            for key in [name.to_uppercase(), escaped] {
                let error = parse(format!(r#"{{"x":1,"{key}":2}}"#)).check_spelling().unwrap_err();
                let key: String = serde_json::from_str(&format!("\"{key}\"")).unwrap();
                assert_eq!(error.code.as_deref(), Some("unknown_parameter"));
                assert_eq!(error.param.as_deref(), Some(key.as_str()));
                assert_eq!(error.message, format!("Unknown parameter: '{key}'."));
            }
            assert!(parse(format!(r#"{{"{name}":1,"{name}s":1,"x{name}":1}}"#)).check_spelling().is_ok());
        }
    }
}
