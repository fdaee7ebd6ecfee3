//! Requests to the endpoints of conversations.

use bytes::Bytes;

use crate::error::ApiError;
use crate::id::ItemId;
use crate::json::{self, Object};
use crate::request::{InputScan, Wanted, invalid, metadata, missing, not_an_object, wrong_type};

/// POST `/v1/conversations`.
#[derive(Debug)]
pub struct NewConversation {
    /// A JSON object of strings.
    pub metadata: Bytes,
    pub items: PostedItems,
}

/// The items that a request adds to a conversation.
#[derive(Debug)]
pub struct PostedItems {
    /// An array of objects, as the client sent it.
    pub array: Bytes,
    pub scan: InputScan,
}

// === impl NewConversation ===

impl NewConversation {
    /// Parses a body, which may be empty, while it is wanted.
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub fn parse(body: &Bytes, wanted: Wanted<'_>) -> Result<Self, ApiError> {
        if body.trim_ascii().is_empty() {
            return Self::parse(&Bytes::from_static(b"{}"), wanted);
        }
        let object = parse_object(body)?;
        let metadata = match object.get("metadata").filter(|value| *value != b"null") {
            Some(metadata) => checked_metadata(metadata)?,
            None => Bytes::from_static(b"{}"),
        };
        let items = object.get("items").filter(|value| *value != b"null").unwrap_or(b"[]");
        Ok(Self { metadata, items: PostedItems::of(body, items, wanted)? })
    }
}

/// The metadata in the body of POST `/v1/conversations/{id}`.
///
/// # Errors
/// What is wrong with it, for the client.
pub fn parse_update(body: &Bytes) -> Result<Bytes, ApiError> {
    checked_metadata(parse_object(body)?.get("metadata").ok_or_else(|| missing("metadata"))?)
}

fn checked_metadata(metadata: &[u8]) -> Result<Bytes, ApiError> {
    metadata::check(metadata)?;
    Ok(metadata::compact(metadata).into())
}

fn parse_object(body: &[u8]) -> Result<Object<'_>, ApiError> {
    Object::parse(body).map_err(|error| not_an_object(body, &error))
}

// === impl PostedItems ===

impl PostedItems {
    /// Parses the body of POST `/v1/conversations/{id}/items`, while it is wanted.
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub fn parse(body: &Bytes, wanted: Wanted<'_>) -> Result<Self, ApiError> {
        let object = parse_object(body)?;
        let items = object.get("items").filter(|value| *value != b"null").ok_or_else(|| missing("items"))?;
        Self::of(body, items, wanted)
    }

    fn of(body: &Bytes, items: &[u8], wanted: Wanted<'_>) -> Result<Self, ApiError> {
        if items.first() != Some(&b'[') {
            return Err(wrong_type("items", "an array of objects", items));
        }
        let scan = InputScan::of("items", items, wanted)?;
        for (position, range) in json::elements(items).map_while(Result::ok).enumerate() {
            check_item(position, &items[range])?;
        }
        let array = if items == b"[]" { Bytes::from_static(b"[]") } else { body.slice_ref(items) };
        Ok(Self { array, scan })
    }
}

/// An item is an object, and its id can be found again, if it has one.
fn check_item(position: usize, item: &[u8]) -> Result<(), ApiError> {
    if item.first() != Some(&b'{') {
        return Err(wrong_type(&format!("items[{position}]"), "an object", item));
    }
    let Some(id) = json::member(item, "id").filter(|id| *id != b"null") else { return Ok(()) };
    let name = format!("items[{position}].id");
    let text = json::string(id).ok_or_else(|| wrong_type(&name, "a string", id))?;
    if ItemId::new(&text).is_some() {
        return Ok(());
    }
    let message = format!(
        "Invalid '{name}': expected a string of 1 to {} bytes without a NUL character.",
        ItemId::MAX_BYTES
    );
    Err(invalid("invalid_value", Some(&name), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &'static str) -> (String, Option<String>, String) {
        let error = NewConversation::parse(&Bytes::from_static(body.as_bytes()), &|| true).unwrap_err();
        (error.code.unwrap().into(), error.param.map(Into::into), error.message)
    }

    #[test]
    fn a_conversation_needs_no_members() {
        for body in ["", " ", "{}", r#"{"metadata":null,"items":null}"#, r#"{"items":[]}"#, r#"{"x":1}"#] {
            let parsed = NewConversation::parse(&Bytes::from_static(body.as_bytes()), &|| true).unwrap();
            assert_eq!((&*parsed.metadata, &*parsed.items.array), (&b"{}"[..], &b"[]"[..]), "{body}");
        }
    }

    #[test]
    fn each_refusal_names_its_member() {
        for (body, code, param) in [
            ("[]", "invalid_json", None),
            (r#"{"metadata":"x"}"#, "invalid_type", Some("metadata")),
            (r#"{"metadata":{"a":1}}"#, "invalid_type", Some("metadata.a")),
            (r#"{"items":{}}"#, "invalid_type", Some("items")),
            (r#"{"items":[{},"x"]}"#, "invalid_type", Some("items[1]")),
            (r#"{"items":[{"type":"message","id":7}]}"#, "invalid_type", Some("items[0].id")),
            (r#"{"items":[{"type":"message","id":""}]}"#, "invalid_value", Some("items[0].id")),
            (r#"{"items":[{"ID":"x"}]}"#, "unknown_parameter", Some("items[0].ID")),
            (r#"{"items":[{"type":"item_reference"}]}"#, "missing_required_parameter", Some("items[0].id")),
        ] {
            let (got, got_param, message) = refused(body);
            assert_eq!((got.as_str(), got_param.as_deref()), (code, param), "{body}: {message}");
        }
    }

    #[test]
    fn metadata_are_kept_without_space() {
        let body = Bytes::from_static(br#"{"metadata": { "a" : "\u00e9\n" , "b":"" } }"#);
        assert_eq!(&*parse_update(&body).unwrap(), "{\"a\":\"é\\n\",\"b\":\"\"}".as_bytes());
        let missing = parse_update(&Bytes::from_static(b"{}")).unwrap_err();
        assert_eq!(missing.code.as_deref(), Some("missing_required_parameter"));
        let null = parse_update(&Bytes::from_static(br#"{"metadata":null}"#)).unwrap_err();
        assert_eq!(null.code.as_deref(), Some("invalid_type"));
    }
}
