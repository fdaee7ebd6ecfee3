//! A create request: the few members that the gateway acts on, and the rest as it came.

use std::borrow::Cow;

use bytes::Bytes;

use crate::error::{ApiError, ErrorKind};
use crate::json;

mod fields;
mod input;
pub(crate) mod metadata;
mod upstream;

use self::fields::lenient_number;
pub(crate) use self::fields::{Field, Members};
pub use self::input::{Input, InputScan, Reference, item_ids};
pub use self::upstream::{Changes, UpstreamBody, UpstreamInput, push_turn};

/// Of a model's name: it goes into every row that tells of the turn.
const MAX_MODEL_BYTES: usize = 256;

/// Members of `client_metadata` that are looked at.
const MAX_CLIENT_METADATA: usize = 1_000;

/// Whether what is being parsed is still wanted; asked for each part of it.
pub type Wanted<'a> = &'a dyn Fn() -> bool;

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Operation {
    /// POST `/v1/responses`: the model responds.
    #[default]
    Create,
    /// POST `/v1/responses/compact`: the context becomes a shorter one.
    Compact,
    /// POST `/v1/responses/input_tokens`: the context is counted.
    CountInput,
    /// POST `/v1/chat/completions`, passed through.
    ChatCompletion,
    /// POST `/v1/embeddings`, passed through.
    Embed,
}

impl Operation {
    pub const ALL: [Self; 5] =
        [Self::Create, Self::Compact, Self::CountInput, Self::ChatCompletion, Self::Embed];

    /// Its path below the base URL of an upstream that has it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Create => "/responses",
            Self::Compact => "/responses/compact",
            Self::CountInput => "/responses/input_tokens",
            Self::ChatCompletion => "/chat/completions",
            Self::Embed => "/embeddings",
        }
    }

    /// Whether request and reply belong to another API and pass as they are: nothing is resolved and nothing is stored.
    pub fn passes_through(self) -> bool {
        matches!(self, Self::ChatCompletion | Self::Embed)
    }

    fn can_stream(self) -> bool {
        matches!(self, Self::Create | Self::ChatCompletion)
    }
}

/// What a client asks for with POST `/v1/responses`, or with one of the endpoints below it, which take a part of the same
/// members and store nothing.
///
/// Of a member that stands there twice the last one counts, and only that one goes upstream.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    pub operation: Operation,
    /// Empty where an operation needs none, and none was named.
    pub model: String,
    pub input: Input,
    /// What there is to know of the input's items.
    pub scan: InputScan,
    /// Not yet parsed as an id: an id of another form is simply unknown.
    pub previous_response_id: Option<String>,
    pub conversation: Option<String>,
    pub store: bool,
    pub stream: bool,
    /// Whether the turn runs without its client, who asks for the response later.
    pub background: bool,
    /// Whether the model is to respond; a frame on a WebSocket may only put the context in place.
    pub generate: bool,
    /// Whether this came as a frame, so that the upstream streams whatever it says.
    is_frame: bool,
    members: Members,
}

// === impl CreateRequest ===

impl CreateRequest {
    /// Reads a request's body, decompressed.
    pub fn parse(operation: Operation, body: Bytes) -> Result<Self, ApiError> {
        Self::parse_while(operation, body, &|| true)
    }

    /// As [`parse`](Self::parse), but gives up once the request is no longer wanted: what comes out then is of no use.
    pub fn parse_while(operation: Operation, body: Bytes, wanted: Wanted<'_>) -> Result<Self, ApiError> {
        let members = Members::parse(body, wanted)?;
        let stream = flag(&members, Field::Stream, "stream", false)? && operation.can_stream();
        if operation.passes_through() {
            return Ok(Self { stream, ..Self::passed(operation, members)? });
        }
        let request = Self::of_members(operation, members, wanted)?;
        let background = request.background()?;
        if background && operation != Operation::Create {
            return Err(background_refused());
        }
        Ok(Self { stream, background, ..request })
    }

    /// From a frame of a WebSocket: it streams in any case.
    pub(crate) fn of_frame(members: Members, wanted: Wanted<'_>) -> Result<Self, ApiError> {
        let request = Self::of_members(Operation::Create, members, wanted)?;
        if request.background()? {
            return Err(background_refused());
        }
        let generate = flag(&request.members, Field::Generate, "generate", true)?;
        Ok(Self { stream: true, is_frame: true, generate, ..request })
    }

    /// A request that passes through: only its model is looked at.
    fn passed(operation: Operation, members: Members) -> Result<Self, ApiError> {
        members.check_spelling()?;
        let model = members.value(Field::Model).ok_or_else(|| missing("model"))?;
        let model = json::string(model).ok_or_else(|| wrong_type("model", "a string", model))?.into_owned();
        check_model(&model)?;
        Ok(Self {
            background: false,
            operation,
            model,
            input: Input::Items(Bytes::from_static(b"[]")),
            scan: InputScan::default(),
            previous_response_id: None,
            conversation: None,
            store: false,
            stream: false,
            generate: true,
            is_frame: false,
            members,
        })
    }

    fn of_members(operation: Operation, members: Members, wanted: Wanted<'_>) -> Result<Self, ApiError> {
        members.check_spelling()?;
        let (value, body) = (|field| members.value(field), members.text());
        let creates = operation == Operation::Create;
        // What the other endpoints need is theirs to say.
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
        let previous_response_id = text(Field::PreviousResponseId, "previous_response_id")?;
        let conversation = value(Field::Conversation).map(conversation_id).transpose()?;
        if previous_response_id.is_some() && conversation.is_some() {
            return Err(mutually_exclusive());
        }
        if let Some(include) = value(Field::Include).filter(|value| value.first() != Some(&b'[')) {
            return Err(wrong_type("include", "an array of strings", include));
        }
        if let Some(metadata) = value(Field::Metadata) {
            metadata::check(metadata)?;
        }
        let store = flag(&members, Field::Store, "store", true)? && creates;
        Ok(Self {
            operation,
            model,
            scan: input.scan(wanted)?,
            input,
            previous_response_id,
            conversation,
            store,
            stream: false,
            background: false,
            generate: true,
            is_frame: false,
            members,
        })
    }

    fn background(&self) -> Result<bool, ApiError> {
        flag(&self.members, Field::Background, "background", false)
    }

    /// Whether there is an input, be it an empty one.
    fn has_input(&self) -> bool {
        self.members.value(Field::Input).is_some()
    }

    /// The most output tokens that the client asks for; of a chat completion, for each of its choices.
    pub fn max_output_tokens(&self) -> Option<u64> {
        match self.operation {
            Operation::Embed => Some(0),
            // Servers differ in which one they know.
            Operation::ChatCompletion => {
                self.asked_number("max_completion_tokens").max(self.asked_number("max_tokens"))
            }
            _ => self.members.get(Field::MaxOutputTokens).and_then(lenient_number),
        }
    }

    /// How many answers the client asks for.
    pub fn choices(&self) -> u64 {
        let asked = if self.operation == Operation::ChatCompletion { self.asked_number("n") } else { None };
        asked.unwrap_or(1).max(1)
    }

    fn asked_number(&self, name: &str) -> Option<u64> {
        json::member(self.body(), name).and_then(lenient_number)
    }

    /// The request as it came, but for members that were repeated.
    pub fn body(&self) -> &Bytes {
        self.members.text()
    }

    /// What requests have in common that should share an upstream's cache.
    pub fn prompt_cache_key(&self) -> Option<String> {
        json::string(self.members.get(Field::PromptCacheKey)?).map(Into::into)
    }

    /// What a client says of itself and its turn; where there are no headers, this stands for them. Whoever says more than
    /// any client does is not listened to to the end.
    pub fn client_metadata(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let object = self.members.get(Field::ClientMetadata).filter(|value| value.first() == Some(&b'{'));
        let object = object.unwrap_or(b"{}");
        json::members(object).map_while(Result::ok).take(MAX_CLIENT_METADATA).filter_map(|member| {
            Some((json::string(&object[member.key])?, json::string(&object[member.value])?))
        })
    }

    /// A member that a response shows, as the client wrote it, unless it is null.
    pub fn shown(&self, name: &str) -> Option<&[u8]> {
        self.members.named(name)
    }
}

fn flag(members: &Members, field: Field, name: &str, default: bool) -> Result<bool, ApiError> {
    match members.value(field) {
        None => Ok(default),
        Some(b"true") => Ok(true),
        Some(b"false") => Ok(false),
        Some(other) => Err(wrong_type(name, "a boolean", other)),
    }
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
        let message = "Invalid 'model': a model's name holds no NUL character.".to_owned();
        return Err(invalid("invalid_value", Some("model"), message));
    }
    Ok(())
}

/// A conversation is named by its id or by an object that holds it.
fn conversation_id(value: &[u8]) -> Result<String, ApiError> {
    let id =
        if value.first() == Some(&b'{') { json::string_member(value, "id") } else { json::string(value) };
    id.map(Into::into).ok_or_else(|| wrong_type("conversation", "a string or an object with an 'id'", value))
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

pub(crate) fn invalid_json(why: &str) -> ApiError {
    invalid("invalid_json", None, format!("We could not parse the JSON body of your request: {why}"))
}

pub(crate) fn not_an_object(body: &[u8], error: &serde_json::Error) -> ApiError {
    if json::validate(body).is_ok() {
        let got = json::kind(body.trim_ascii_start());
        return invalid_json(&format!("Expected an object, but got {got} instead."));
    }
    invalid_json(&format!("{error}."))
}

pub fn missing(name: &str) -> ApiError {
    invalid("missing_required_parameter", Some(name), format!("Missing required parameter: '{name}'."))
}

pub(crate) fn wrong_type(name: &str, expected: &str, value: &[u8]) -> ApiError {
    if value.first() == Some(&b'"') && json::string(value).is_none() {
        let message = format!("Invalid '{name}': an escape in the string stands for half of a character.");
        return invalid("invalid_value", Some(name), message);
    }
    let got = json::kind(value);
    let message = format!("Invalid type for '{name}': expected {expected}, but got {got} instead.");
    invalid("invalid_type", Some(name), message)
}

fn mutually_exclusive() -> ApiError {
    let message = "Mutually exclusive parameters. Ensure you are only providing one of: 'previous_response_id' or 'conversation'.";
    invalid("mutually_exclusive_parameters", None, message.to_owned())
}

fn background_refused() -> ApiError {
    let message = "Unsupported value: 'background' is true, but only POST /v1/responses creates background responses. Leave it out or set it to false.";
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
    fn each_refusal_says_what_is_wrong() {
        let cases = [
            ("{", "invalid_json", None),
            ("[1]", "invalid_json", None),
            (r#"{"input":"x"}"#, "missing_required_parameter", Some("model")),
            (r#"{"model":"m","input":null}"#, "missing_required_parameter", Some("input")),
            (r#"{"model":5,"input":"x"}"#, "invalid_type", Some("model")),
            (r#"{"model":"m\u0000","input":"x"}"#, "invalid_value", Some("model")),
            (r#"{"model":"m","input":{}}"#, "invalid_type", Some("input")),
            (r#"{"model":"m","input":"x","store":"no"}"#, "invalid_type", Some("store")),
            (r#"{"model":"m","input":"x","background":"yes"}"#, "invalid_type", Some("background")),
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
    fn what_other_operations_need_is_not_asked_for_here_and_they_store_and_stream_nothing() {
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
    fn of_a_request_that_passes_through_only_the_model_is_checked() {
        let chat = |body: &'static str| {
            CreateRequest::parse(Operation::ChatCompletion, Bytes::from_static(body.as_bytes()))
        };
        let request =
            chat(r#"{"model":"m","stream":true,"store":true,"input":7,"background":true,"max_tokens":9}"#)
                .unwrap();
        assert_eq!((request.store, request.stream, request.max_output_tokens()), (false, true, Some(9)));
        assert_eq!(chat(r#"{"messages":[]}"#).unwrap_err().param.as_deref(), Some("model"));
        assert_eq!(chat(r#"{"model":1}"#).unwrap_err().code.as_deref(), Some("invalid_type"));
        let body = Bytes::from_static(br#"{"model":"m","input":["a"],"stream":true}"#);
        let embed = CreateRequest::parse(Operation::Embed, body).unwrap();
        assert_eq!((embed.stream, embed.max_output_tokens()), (false, Some(0)));
    }

    #[test]
    fn a_chat_completion_asks_for_tokens_in_each_of_its_choices() {
        let asked = |members: &str| {
            let body = Bytes::from(format!(r#"{{"model":"m",{members}}}"#));
            let request = CreateRequest::parse(Operation::ChatCompletion, body).unwrap();
            (request.max_output_tokens(), request.choices())
        };
        for (members, tokens, choices) in [
            (r#""max_completion_tokens":null,"max_tokens":9"#, Some(9), 1),
            (r#""max_completion_tokens":1,"max_tokens":9,"n":null"#, Some(9), 1),
            (r#""max_completion_tokens":9,"max_tokens":"x","n":128"#, Some(9), 128),
            (r#""max_tokens":9.0,"n":"3""#, Some(9), 3),
            (r#""max_tokens":-1,"n":0"#, None, 1),
            (r#""max_tokens":1e99,"n":-2"#, Some(u64::MAX), 1),
        ] {
            assert_eq!(asked(members), (tokens, choices), "{members}");
        }
        let body = Bytes::from_static(br#"{"model":"m","input":"a","n":5,"max_output_tokens":7.0}"#);
        let create = CreateRequest::parse(Operation::Create, body).unwrap();
        assert_eq!((create.max_output_tokens(), create.choices()), (Some(7), 1));
    }

    #[test]
    fn a_request_that_is_no_longer_wanted_is_not_parsed_on() {
        let members = "\"x\":0,".repeat(1000);
        let input = "1,".repeat(1000);
        let body = Bytes::from(format!(r#"{{{members}"model":"m","input":[{input}1]}}"#));
        for enough in [10, 1500] {
            let asked = std::cell::Cell::new(0);
            let wanted = || {
                asked.set(asked.get() + 1);
                asked.get() < enough
            };
            let parsed = CreateRequest::parse_while(Operation::Create, body.clone(), &wanted);
            assert!(parsed.is_err() || parsed.is_ok_and(|request| request.scan.items < 600));
            assert_eq!(asked.get(), enough);
        }
    }

    #[test]
    fn of_a_member_that_stands_twice_the_last_one_counts() {
        let request =
            parse(r#"{"model":"a","input":"x","mod\u0065l":"b","store":true,"store":false}"#).unwrap();
        assert_eq!((request.model.as_str(), request.store), ("b", false));
    }
}
