//! A request's body: what is read from it does not depend on whitespace, and what goes upstream is what it says.

mod upstream;

use std::cell::Cell;

use antiphon_protocol::error::ApiError;
use antiphon_protocol::id::ItemId;
use antiphon_protocol::item;
use antiphon_protocol::json;
use antiphon_protocol::request::{CreateRequest, Input, Operation, item_ids};
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::spacing::spaced;

const OPERATIONS: [Operation; 3] = [Operation::Create, Operation::Compact, Operation::CountInput];

/// Members that the gateway replaces or goes by. An upstream that ignores case must not find others.
const GUARDED: [&str; 10] = [
    "model",
    "input",
    "previous_response_id",
    "conversation",
    "store",
    "stream",
    "background",
    "include",
    "metadata",
    "generate",
];

/// What is read from a request, but for where it stands.
#[derive(Debug, PartialEq)]
pub(crate) struct Read {
    model: String,
    store: bool,
    pub stream: bool,
    previous_response_id: Option<String>,
    conversation: Option<String>,
    prompt_cache_key: Option<String>,
    max_output_tokens: Option<u64>,
    includes_encrypted_reasoning: bool,
    client_metadata: Vec<(String, String)>,
    is_text: bool,
    items: usize,
    references: Vec<(u32, String)>,
    has_compaction: bool,
}

pub fn check(body: &[u8]) {
    for operation in OPERATIONS {
        let request = parse(operation, body);
        if json::validate(body).is_ok() {
            let other = parse(operation, &spaced(body));
            let read = request.as_ref().map(Read::of);
            assert_eq!(read, other.as_ref().map(Read::of), "whitespace makes a difference");
        }
        if let Ok(request) = request {
            check_accepted(&request, body);
        }
    }
    // What is no longer wanted is not parsed on, wherever that is noticed.
    for enough in 0..4 {
        let asked = Cell::new(0);
        let wanted = || asked.replace(asked.get() + 1) < enough;
        let _ = CreateRequest::parse_while(Operation::Create, Bytes::copy_from_slice(body), &wanted);
        assert!(asked.get() <= enough + 1);
    }
}

/// Parses a body, with work that is linear in its size.
fn parse(operation: Operation, body: &[u8]) -> Result<CreateRequest, ApiError> {
    let asked = Cell::new(0);
    let wanted = || {
        asked.set(asked.get() + 1);
        true
    };
    let request = CreateRequest::parse_while(operation, Bytes::copy_from_slice(body), &wanted);
    assert!(asked.get() <= body.len(), "{} members and items in {} bytes", asked.get(), body.len());
    request
}

fn check_accepted(request: &CreateRequest, body: &[u8]) {
    assert!(json::validate(body).is_ok() && json::validate(request.body()).is_ok());
    check_items(request);
    // serde_json knows fewer texts: it bounds nesting and numbers, and wants escapes to be of whole characters.
    let Ok(Value::Object(members)) = serde_json::from_slice(body) else {
        upstream::check_valid(request);
        return;
    };
    check_members(request, &members);
    upstream::check(request, &members);
}

fn check_members(request: &CreateRequest, members: &Map<String, Value>) {
    let text = |name: &str| members.get(name).and_then(Value::as_str).map(str::to_owned);
    assert_eq!(request.model, text("model").unwrap_or_default());
    assert_eq!(request.previous_response_id, text("previous_response_id"));
    assert_eq!(request.prompt_cache_key(), text("prompt_cache_key"));
    let is_true = |name: &str| members.get(name).is_some_and(|value| value == true);
    let creates = request.operation == Operation::Create;
    assert_eq!(request.stream, creates && is_true("stream"));
    let stores = members.get("store").is_none_or(|store| *store != false);
    assert_eq!(request.store, creates && stores);
    for name in ["tools", "temperature", "instructions"] {
        let shown = request.shown(name).map(|raw| serde_json::from_slice(raw).expect("a member is JSON"));
        assert_eq!(shown.as_ref(), members.get(name).filter(|value| !value.is_null()), "{name}");
    }
    for key in members.keys() {
        let is_other_case = |name: &&str| key != name && key.eq_ignore_ascii_case(name);
        assert!(!GUARDED.iter().any(is_other_case), "{key:?} was accepted");
    }
}

fn check_items(request: &CreateRequest) {
    let items = request.input.items();
    let spans: Vec<_> =
        json::elements(&items).collect::<Result<_, _>>().expect("an accepted input is an array of items");
    assert_eq!(request.scan.items, spans.len());
    for reference in &request.scan.references {
        assert_eq!(spans[reference.position as usize], reference.span);
    }
    for (position, span) in (0..).zip(&spans) {
        let item = &items[span.clone()];
        check_listed(item);
        if let Ok(Value::Object(members)) = serde_json::from_slice(item) {
            check_item(request, position, &members);
        }
    }
    let ids = item_ids(&items, 0);
    assert!(ids.iter().is_sorted_by(|(_, earlier), (_, later)| earlier < later));
    assert!(ids.iter().all(|(_, position)| (*position as usize) < spans.len()));
}

fn check_item(request: &CreateRequest, position: u32, members: &Map<String, Value>) {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let found = request.scan.references.iter().find(|reference| reference.position == position);
    let has_role = members.get("role").is_some_and(|role| !role.is_null());
    let stands_alone = text("id").is_some() && text("type").is_none() && !has_role;
    if text("type") == Some("item_reference") || stands_alone {
        assert_eq!(found.map(|reference| reference.id.as_str()), text("id"));
    }
    if matches!(text("type"), Some("compaction" | "compaction_summary")) {
        assert!(request.scan.has_compaction);
    }
    for key in members.keys() {
        let is_other_case = |name: &str| key != name && key.eq_ignore_ascii_case(name);
        assert!(!is_other_case("id") && !is_other_case("type"), "{key:?} was accepted");
    }
}

/// An item is listed with an id, and listing it again changes nothing.
fn check_listed(item: &[u8]) {
    let shown_id = item::id(item).unwrap_or_else(|| ItemId::new("msg_derived").expect("the id is short"));
    let listed = item::listed(item, &shown_id);
    assert!(json::validate(&listed).is_ok());
    assert!(item::id(&listed).is_some());
    assert_eq!(item::listed(&listed, &shown_id), listed);
}

impl Read {
    pub(crate) fn of(request: &CreateRequest) -> Self {
        let scan = &request.scan;
        Self {
            model: request.model.clone(),
            store: request.store,
            stream: request.stream,
            previous_response_id: request.previous_response_id.clone(),
            conversation: request.conversation.clone(),
            prompt_cache_key: request.prompt_cache_key(),
            max_output_tokens: request.max_output_tokens(),
            includes_encrypted_reasoning: request.includes_encrypted_reasoning(),
            client_metadata: request
                .client_metadata()
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
            is_text: matches!(request.input, Input::Text(_)),
            items: scan.items,
            references: scan
                .references
                .iter()
                .map(|reference| (reference.position, reference.id.clone()))
                .collect(),
            has_compaction: scan.has_compaction,
        }
    }
}
