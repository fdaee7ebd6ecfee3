//! JSON text written field by field, in the order given, so that values pass through untouched.

use serde::Serialize;

/// An object under construction. Values of [`Object::raw`] must be JSON already.
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Self {
        Self(String::from("{"))
    }

    pub(super) fn raw(mut self, key: &str, json: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&to_json(key));
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    pub(super) fn value<V: Serialize + ?Sized>(self, key: &str, value: &V) -> Self {
        self.raw(key, &to_json(value))
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

pub(super) fn array<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> String {
    let mut text = String::from("[");
    for value in values {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(value.as_ref());
    }
    text.push(']');
    text
}

pub(super) fn to_json<V: Serialize + ?Sized>(value: &V) -> String {
    serde_json::to_string(value).expect("strings, numbers and maps with string keys always serialise")
}
