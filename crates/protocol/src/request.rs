//! A create request: the few members that the gateway reads, and the rest as received.

use std::borrow::Cow;

use bytes::Bytes;

use crate::error::{ApiError, ErrorKind};
use crate::id::ItemId;
use crate::item::{self, Reference};
use crate::json::{self, Member, Object};

mod metadata;
mod upstream;

pub use self::upstream::{Changes, UpstreamBody, UpstreamInput, push_turn};

/// Bounded, as the model's name is in the turn's rows and log lines.
const MAX_MODEL_BYTES: usize = 256;

/// What to do with a context, which is the history and the input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Operation {
    /// POST `/v1/responses`: the model responds.
    #[default]
    Create,
    /// POST `/v1/responses/compact`: the context becomes a shorter one.
    Compact,
    /// POST `/v1/responses/input_tokens`: the context is counted.
    CountInput,
}

/// The request of POST `/v1/responses`, or of one of the endpoints below it, which accept some of the same members and store
/// nothing.
///
/// If a member occurs twice, the last one counts, and only that one goes upstream.
#[derive(Debug)]
pub struct CreateRequest {
    pub operation: Operation,
    /// Empty if the operation does not require one and the client named none.
    pub model: String,
    pub input: Input,
    /// Not parsed as an id yet: an id of another form is just unknown.
    pub previous_response_id: Option<String>,
    pub conversation: Option<String>,
    pub store: bool,
    pub stream: bool,
    /// Whether the model responds; `false` in a frame that only prepares the context (a warm-up).
    pub generate: bool,
    /// Whether this was a WebSocket frame, so that the upstream always streams.
    is_frame: bool,
    body: Bytes,
    members: Vec<(Field, Member)>,
}

/// The `input` as the client sent it.
#[derive(Debug, Clone)]
pub enum Input {
    /// A string, including its quotes.
    Text(Bytes),
    /// An array of items.
    Items(Bytes),
}

/// What the gateway needs to know about input items.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct InputScan {
    /// Items that refer to stored ones, with their positions.
    pub references: Vec<(u32, String)>,
    /// Whether an item replaces everything before it.
    pub has_compaction: bool,
}

/// The members that the gateway reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Model,
    Input,
    PreviousResponseId,
    Conversation,
    Store,
    Stream,
    Background,
    Include,
    Metadata,
    PromptCacheKey,
    /// Only means something on a WebSocket.
    Generate,
    /// Only means something on a WebSocket.
    StreamId,
    ClientMetadata,
    /// The `type` of a frame; over HTTP it has no meaning.
    Type,
    Other,
}

const FIELDS: [(&str, Field); 14] = [
    ("model", Field::Model),
    ("input", Field::Input),
    ("previous_response_id", Field::PreviousResponseId),
    ("conversation", Field::Conversation),
    ("store", Field::Store),
    ("stream", Field::Stream),
    ("background", Field::Background),
    ("include", Field::Include),
    ("metadata", Field::Metadata),
    ("prompt_cache_key", Field::PromptCacheKey),
    ("generate", Field::Generate),
    ("stream_id", Field::StreamId),
    ("client_metadata", Field::ClientMetadata),
    ("type", Field::Type),
];

// === impl CreateRequest ===

impl CreateRequest {
    /// Reads a request's decompressed body.
    pub fn parse(operation: Operation, body: Bytes) -> Result<Self, ApiError> {
        let members = known_members(parse_object(&body)?);
        Self::of_members(operation, body, members)
    }

    /// Reads the members of a WebSocket frame, which always streams.
    pub(crate) fn of_frame(body: Bytes, members: Vec<(Field, Member)>) -> Result<Self, ApiError> {
        let framing = |field: &Field| matches!(field, Field::Stream | Field::StreamId | Field::Type);
        let members = members.into_iter().filter(|(field, _)| !framing(field)).collect();
        let mut request = Self::of_members(Operation::Create, body, members)?;
        request.stream = true;
        request.is_frame = true;
        request.generate = match request.value(Field::Generate).unwrap_or_default() {
            b"" | b"null" | b"true" => true,
            b"false" => false,
            other => return Err(wrong_type("generate", "a boolean", other)),
        };
        Ok(request)
    }

    fn of_members(
        operation: Operation,
        body: Bytes,
        members: Vec<(Field, Member)>,
    ) -> Result<Self, ApiError> {
        let value = |field| {
            let (_, member) = members.iter().find(|(f, _)| *f == field)?;
            Some(&body[member.value.clone()]).filter(|value| *value != b"null")
        };
        let creates = operation == Operation::Create;
        // For the other operations, the upstream decides what is required.
        let required = |field, name| match value(field) {
            None if creates => Err(missing(name)),
            value => Ok(value),
        };
        let model = match required(Field::Model, "model")? {
            None => String::new(),
            Some(model) => {
                json::string(model).ok_or_else(|| wrong_type("model", "a string", model))?.into_owned()
            }
        };
        check_model(&model)?;
        let input = match required(Field::Input, "input")? {
            None => Input::Items(Bytes::from_static(b"[]")),
            Some(input) => match input.first() {
                Some(b'"') => Input::Text(body.slice_ref(input)),
                Some(b'[') => Input::Items(body.slice_ref(input)),
                _ => return Err(wrong_type("input", "a string or an array", input)),
            },
        };
        let text = |field, name| match value(field) {
            None => Ok(None),
            Some(value) => match json::string(value) {
                Some(text) => Ok(Some(text.into_owned())),
                None => Err(wrong_type(name, "a string", value)),
            },
        };
        let flag = |field, name, default| match value(field) {
            None => Ok(default),
            Some(b"true") => Ok(true),
            Some(b"false") => Ok(false),
            Some(other) => Err(wrong_type(name, "a boolean", other)),
        };
        let previous_response_id = text(Field::PreviousResponseId, "previous_response_id")?;
        let conversation = value(Field::Conversation).map(conversation_id).transpose()?;
        if previous_response_id.is_some() && conversation.is_some() {
            return Err(mutually_exclusive());
        }
        if flag(Field::Background, "background", false)? {
            return Err(background_refused());
        }
        if let Some(include) = value(Field::Include).filter(|value| value.first() != Some(&b'[')) {
            return Err(wrong_type("include", "an array of strings", include));
        }
        if let Some(metadata) = value(Field::Metadata) {
            metadata::check(metadata)?;
        }
        let store = flag(Field::Store, "store", true)? && creates;
        let stream = flag(Field::Stream, "stream", false)? && creates;
        Ok(Self {
            operation,
            model,
            input,
            previous_response_id,
            conversation,
            store,
            stream,
            generate: true,
            is_frame: false,
            body,
            members,
        })
    }

    /// Whether there is an input, even an empty one.
    fn has_input(&self) -> bool {
        self.value(Field::Input).is_some_and(|input| input != b"null")
    }

    /// The client's `max_output_tokens`.
    pub fn max_output_tokens(&self) -> Option<u64> {
        std::str::from_utf8(json::member(&self.body, "max_output_tokens")?).ok()?.parse().ok()
    }

    /// The request as received.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The client's `prompt_cache_key`: requests with the same one should share an upstream's cache.
    pub fn prompt_cache_key(&self) -> Option<String> {
        json::string(self.value(Field::PromptCacheKey)?).map(Into::into)
    }

    /// The client's `client_metadata`, which replaces headers in WebSocket frames.
    pub fn client_metadata(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let object = self.value(Field::ClientMetadata).filter(|value| value.first() == Some(&b'{'));
        let object = object.unwrap_or(b"{}");
        json::members(object).map_while(Result::ok).filter_map(|member| {
            Some((json::string(&object[member.key])?, json::string(&object[member.value])?))
        })
    }

    /// A member as the client wrote it, unless it is null.
    pub fn member(&self, name: &str) -> Option<&[u8]> {
        let (_, member) = self.members.iter().rfind(|(_, member)| member.is(&self.body, name))?;
        Some(&self.body[member.value.clone()]).filter(|value| *value != b"null")
    }

    fn value(&self, field: Field) -> Option<&[u8]> {
        let (_, member) = self.members.iter().find(|(f, _)| *f == field)?;
        Some(&self.body[member.value.clone()])
    }
}

/// Reads the body as an object.
pub(crate) fn parse_object(body: &[u8]) -> Result<Object<'_>, ApiError> {
    Object::parse(body).map_err(|error| not_an_object(body, &error))
}

/// The members of the body; if a known one occurs several times, only the last.
pub(crate) fn known_members(object: Object<'_>) -> Vec<(Field, Member)> {
    let mut members: Vec<(Field, Member)> = Vec::with_capacity(object.members.len());
    for member in object.members {
        let field = FIELDS.iter().find(|(name, _)| member.is(object.text, name));
        let field = field.map_or(Field::Other, |(_, field)| *field);
        if field != Field::Other {
            members.retain(|(earlier, _)| *earlier != field);
        }
        members.push((field, member));
    }
    members
}

fn check_model(name: &str) -> Result<(), ApiError> {
    if name.len() > MAX_MODEL_BYTES {
        let message = format!(
            "Invalid 'model': string too long. Expected a string with maximum length {MAX_MODEL_BYTES} bytes, but got a string with length {} bytes instead.",
            name.len()
        );
        return Err(invalid("string_above_max_length", Some("model"), message));
    }
    if name.contains('\0') {
        let message = "Invalid 'model': a model name must not contain a NUL character.".to_owned();
        return Err(invalid("invalid_value", Some("model"), message));
    }
    Ok(())
}

/// The id of a conversation, which is a string or the `id` of an object.
fn conversation_id(value: &[u8]) -> Result<String, ApiError> {
    let id =
        if value.first() == Some(&b'{') { json::string_member(value, "id") } else { json::string(value) };
    id.map(Into::into).ok_or_else(|| wrong_type("conversation", "a string or an object with an 'id'", value))
}

// === impl Input ===

impl Input {
    /// The input as an array of items; a string becomes one user message.
    pub fn items(&self) -> Bytes {
        match self {
            Self::Text(text) => [b"[", item::user_message(text).as_slice(), b"]"].concat().into(),
            Self::Items(items) => items.clone(),
        }
    }

    /// Reads each item once.
    pub fn scan(&self) -> InputScan {
        let mut scan = InputScan::default();
        let Self::Items(items) = self else { return scan };
        for (position, range) in (0_u32..).zip(json::elements(items).map_while(Result::ok)) {
            let item = &items[range];
            match item::reference(item) {
                Reference::To(id) => scan.references.push((position, id.into_owned())),
                Reference::None => scan.has_compaction |= item::is_compaction(item),
            }
        }
        scan
    }
}

/// The ids of an array's items that have one, and their positions counted from `first`.
pub fn item_ids(items: &[u8], first: u32) -> Vec<(ItemId, u32)> {
    let positions = (first..).zip(json::elements(items).map_while(Result::ok));
    positions.filter_map(|(position, range)| Some((item::id(&items[range])?, position))).collect()
}

// === errors ===

pub(crate) fn invalid(code: &'static str, param: Option<&str>, message: String) -> ApiError {
    ApiError {
        kind: ErrorKind::InvalidRequest,
        code: Some(code.into()),
        param: param.map(|param| param.to_owned().into()),
        message,
    }
}

fn invalid_json(why: &str) -> ApiError {
    invalid("invalid_json", None, format!("We could not parse the JSON body of your request: {why}"))
}

fn not_an_object(body: &[u8], error: &serde_json::Error) -> ApiError {
    if json::validate(body).is_ok() {
        let got = json::kind(body.trim_ascii_start());
        return invalid_json(&format!("Expected an object, but got {got} instead."));
    }
    invalid_json(&format!("{error}."))
}

pub(crate) fn missing(name: &str) -> ApiError {
    invalid("missing_required_parameter", Some(name), format!("Missing required parameter: '{name}'."))
}

pub(crate) fn wrong_type(name: &str, expected: &str, value: &[u8]) -> ApiError {
    let got = json::kind(value);
    let message = format!("Invalid type for '{name}': expected {expected}, but got {got} instead.");
    invalid("invalid_type", Some(name), message)
}

fn mutually_exclusive() -> ApiError {
    let message = "Mutually exclusive parameters. Ensure you are only providing one of: 'previous_response_id' or 'conversation'.";
    invalid("mutually_exclusive_parameters", None, message.to_owned())
}

fn background_refused() -> ApiError {
    let message = "Unsupported value: 'background' is true, but background responses are not supported here. Leave it out or set it to false.";
    invalid("unsupported_value", Some("background"), message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<CreateRequest, ApiError> {
        CreateRequest::parse(Operation::Create, Bytes::copy_from_slice(body.as_bytes()))
    }

    fn refused(body: &str) -> (Option<String>, Option<String>, String) {
        let error = parse(body).unwrap_err();
        (error.code.map(Into::into), error.param.map(Into::into), error.message)
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let request =
            parse(r#"{"model":"m","input":"hi","previous_response_id":null,"store":null}"#).unwrap();
        assert!(request.store && !request.stream);
        assert_eq!(request.previous_response_id, None);
        assert_eq!(
            request.input.items(),
            r#"[{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}]"#
        );
    }

    #[test]
    fn invalid_requests_are_rejected_with_a_reason() {
        let cases = [
            ("{", "invalid_json", None),
            ("[1]", "invalid_json", None),
            (r#"{"input":"x"}"#, "missing_required_parameter", Some("model")),
            (r#"{"model":"m","input":null}"#, "missing_required_parameter", Some("input")),
            (r#"{"model":5,"input":"x"}"#, "invalid_type", Some("model")),
            (r#"{"model":"m\u0000","input":"x"}"#, "invalid_value", Some("model")),
            (r#"{"model":"m","input":{}}"#, "invalid_type", Some("input")),
            (r#"{"model":"m","input":"x","store":"no"}"#, "invalid_type", Some("store")),
            (r#"{"model":"m","input":"x","background":true}"#, "unsupported_value", Some("background")),
            (r#"{"model":"m","input":"x","include":"all"}"#, "invalid_type", Some("include")),
            (
                r#"{"model":"m","input":"x","previous_response_id":"a","conversation":{"id":"c"}}"#,
                "mutually_exclusive_parameters",
                None,
            ),
        ];
        for (body, code, param) in cases {
            let (got_code, got_param, _) = refused(body);
            assert_eq!((got_code.as_deref(), got_param.as_deref()), (Some(code), param), "{body}");
        }
        let (.., message) = refused(r#"{"model":"m","input":"x","previous_response_id":12}"#);
        assert_eq!(
            message,
            "Invalid type for 'previous_response_id': expected a string, but got an integer instead."
        );
        assert!(refused("{\n\"a\":,}").2.contains("line 2"));
    }

    #[test]
    fn a_model_of_more_than_256_bytes_is_refused() {
        let naming = |operation, model: &str| {
            let body = format!(r#"{{"model":"{model}","input":"x"}}"#);
            CreateRequest::parse(operation, Bytes::from(body))
        };
        for operation in [Operation::Create, Operation::Compact, Operation::CountInput] {
            let longest = "é".repeat(128);
            assert_eq!(naming(operation, &longest).unwrap().model, longest);
            // What counts is the name, not how it is escaped.
            assert_eq!(naming(operation, &r"\u00e9".repeat(128)).unwrap().model, longest);
            let error = naming(operation, &format!("{longest}x")).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidRequest);
            assert_eq!(error.code.as_deref(), Some("string_above_max_length"));
            assert_eq!(error.param.as_deref(), Some("model"));
            assert_eq!(
                error.message,
                "Invalid 'model': string too long. Expected a string with maximum length 256 bytes, but got a string with length 257 bytes instead."
            );
        }
    }

    #[test]
    fn other_operations_require_nothing_here_and_neither_store_nor_stream() {
        for operation in [Operation::Compact, Operation::CountInput] {
            let body = Bytes::from_static(br#"{"store":true,"stream":true,"previous_response_id":"p"}"#);
            let request = CreateRequest::parse(operation, body).unwrap();
            assert_eq!((request.model.as_str(), request.store, request.stream), ("", false, false));
            assert_eq!(request.input.items(), "[]");
            let wrong = Bytes::from_static(br#"{"model":"m","input":7}"#);
            assert_eq!(
                CreateRequest::parse(operation, wrong).unwrap_err().code.as_deref(),
                Some("invalid_type")
            );
        }
    }

    #[test]
    fn the_last_of_two_members_with_the_same_name_counts() {
        let request =
            parse(r#"{"model":"a","input":"x","mod\u0065l":"b","store":true,"store":false}"#).unwrap();
        assert_eq!((request.model.as_str(), request.store), ("b", false));
    }

    #[test]
    fn references_and_compactions_are_found_in_the_input() {
        let request = parse(
            r#"{"model":"m","input":[{"role":"user","content":"x"},{"type":"item_reference","id":"a"},{"type":"compaction","id":"c"},{"id":"b"}]}"#,
        )
        .unwrap();
        let scan = request.input.scan();
        assert_eq!(scan.references, [(1, "a".to_owned()), (3, "b".to_owned())]);
        assert!(scan.has_compaction);
        assert_eq!(item_ids(&request.input.items(), 5).len(), 3);
    }
}
