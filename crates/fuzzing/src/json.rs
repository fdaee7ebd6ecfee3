//! The JSON scanner: it agrees with serde_json, and its slices put together are the text.

use std::ops::Range;

use antiphon_protocol::json::{self, Object, Set};
use serde_json::Value;

/// How deep objects and arrays are walked.
const MAX_DEPTH: usize = 5;
/// Of an object: how many members are looked up by their names.
const MAX_LOOKUPS: usize = 8;

pub fn check(text: &[u8]) {
    let is_valid = json::validate(text).is_ok();
    if serde_json::from_slice::<Value>(text).is_ok() {
        assert!(is_valid, "what serde_json decodes is valid");
    }
    check_bounds(text);
    let is_object = text.trim_ascii_start().first() == Some(&b'{');
    assert_eq!(Object::parse(text).is_ok(), is_valid && is_object);
    if is_valid {
        let span = trimmed(text);
        walk(&text[span], 0);
    }
}

/// Texts that are not valid must not lead out of them either.
fn check_bounds(text: &[u8]) {
    let mut end = 0;
    for member in json::members(text).map_while(Result::ok) {
        assert!(end <= member.key.start && member.key.end <= member.value.start);
        end = member.value.end;
        assert!(end <= text.len());
    }
    let mut end = 0;
    for element in json::elements(text).map_while(Result::ok) {
        assert!(end <= element.start && element.start < element.end);
        end = element.end;
        assert!(end <= text.len());
    }
    let _ = (json::string(text), json::member(text, "id"), Object::scan(text));
}

/// Checks a valid value, and those in it. There is no whitespace around it.
fn walk(value: &[u8], depth: usize) {
    if depth == MAX_DEPTH {
        return;
    }
    match value[0] {
        b'{' => walk_object(value, depth),
        b'[' => walk_array(value, depth),
        b'"' => assert_eq!(json::string(value).map(String::from), decoded(value)),
        _ => assert_eq!(json::string(value), None),
    }
}

fn walk_object(text: &[u8], depth: usize) {
    let object = Object::scan(text).expect("a valid object is scanned");
    assert_eq!(object.members, Object::parse(text).expect("a valid object is parsed").members);
    let spans = object.members.iter().flat_map(|member| [member.key.clone(), member.value.clone()]);
    let separators = (1..object.members.len() * 2).map(|n| if n % 2 == 1 { b":" } else { b"," });
    check_gaps(text, spans, [b"{"].into_iter().chain(separators), b"}");
    for member in &object.members {
        assert!(text[member.key.clone()].starts_with(b"\""));
        let value = object.value(member);
        assert!(json::validate(value).is_ok());
        walk(value, depth + 1);
    }
    check_lookups(&object);
    check_set(&object);
}

fn walk_array(text: &[u8], depth: usize) {
    let spans: Vec<_> =
        json::elements(text).collect::<Result<_, _>>().expect("a valid array is walked to its end");
    let separators = std::iter::repeat_n(b",", spans.len().saturating_sub(1));
    check_gaps(text, spans.iter().cloned(), [b"["].into_iter().chain(separators), b"]");
    for span in spans {
        assert!(json::validate(&text[span.clone()]).is_ok());
        walk(&text[span], depth + 1);
    }
}

/// Between the slices there is nothing but these separators.
fn check_gaps<'a>(
    text: &[u8],
    spans: impl Iterator<Item = Range<usize>>,
    mut separators: impl Iterator<Item = &'a [u8; 1]>,
    close: &[u8],
) {
    let mut end = 0;
    let mut is_empty = true;
    for span in spans {
        let separator = separators.next().expect("a separator stands before each slice");
        assert_eq!(text[end..span.start].trim_ascii(), separator);
        end = span.end;
        is_empty = false;
    }
    let rest = text[end..].trim_ascii();
    assert!(rest == close || is_empty && rest.ends_with(close) && rest[1..].trim_ascii() == close);
}

/// Of several members with the same name the last one counts.
fn check_lookups(object: &Object<'_>) {
    for member in object.members.iter().take(MAX_LOOKUPS) {
        let Some(name) = decoded(&object.text[member.key.clone()]).filter(|name| !name.contains('\\')) else {
            continue;
        };
        let is_named = |key: &[u8]| decoded(key).is_some_and(|key| key == name);
        let last = object.members.iter().rfind(|other| is_named(&object.text[other.key.clone()]));
        let expected = last.map(|last| object.value(last));
        assert_eq!(object.get(&name), expected, "{name:?}");
        assert_eq!(json::member(object.text, &name), expected, "{name:?}");
    }
}

/// Setting members changes their values, adds those that are missing, and leaves all others as they are.
fn check_set(object: &Object<'_>) {
    let set = [
        Set { name: "id", value: b"[1]", add: false },
        Set { name: "store", value: b"{\"set\":true}", add: true },
    ];
    let mut out = Vec::new();
    object.set(&set, &mut out);
    let changed = Object::parse(&out).expect("an object with members set is valid");
    let mut expected: Vec<(&[u8], &[u8])> = Vec::new();
    let mut adds_store = true;
    for member in &object.members {
        let key = &object.text[member.key.clone()];
        let value = match decoded(key).as_deref() {
            Some("id") => set[0].value,
            Some("store") => {
                adds_store = false;
                set[1].value
            }
            _ => object.value(member),
        };
        expected.push((key, value));
    }
    expected.extend(adds_store.then_some((&b"\"store\""[..], set[1].value)));
    let members = changed.members.iter().map(|member| (&out[member.key.clone()], changed.value(member)));
    assert_eq!(members.collect::<Vec<_>>(), expected);
}

fn decoded(string: &[u8]) -> Option<String> {
    serde_json::from_slice(string).ok()
}

/// The range of a valid value in its text.
fn trimmed(text: &[u8]) -> Range<usize> {
    let start = text.len() - text.trim_ascii_start().len();
    start..start + text.trim_ascii().len()
}
