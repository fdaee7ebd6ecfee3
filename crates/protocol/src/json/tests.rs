//! What the scanner and the check find, beside what serde_json finds.

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
