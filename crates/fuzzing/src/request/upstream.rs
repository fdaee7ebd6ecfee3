//! The body that goes upstream, compared with one that is put together from decoded JSON.

use antiphon_protocol::json;
use antiphon_protocol::request::{Changes, CreateRequest, Input, Operation, UpstreamInput};
use bytes::Bytes;
use serde_json::{Map, Value, json};

const ENCRYPTED_REASONING: &str = "reasoning.encrypted_content";
const HISTORY: &str = r#"{"type":"message","role":"user","content":"earlier"},{"id":"later"}"#;

/// Members that an upstream never gets from the client.
const LEFT_OUT: [&str; 6] =
    ["previous_response_id", "conversation", "store", "background", "generate", "stream_id"];

fn changes() -> [Changes<'static>; 4] {
    [
        Changes::default(),
        Changes { include_encrypted_reasoning: true, streams: true, ..Changes::default() },
        Changes { is_frame: true, streams: true, model: Some("other \"model\""), ..Changes::default() },
        Changes {
            store: true,
            previous: Some("resp_1"),
            include_encrypted_reasoning: true,
            ..Changes::default()
        },
    ]
}

fn inputs() -> [UpstreamInput; 2] {
    let history = vec![Bytes::from_static(HISTORY.as_bytes())];
    [UpstreamInput::default(), UpstreamInput { history, resolved: None }]
}

/// What goes upstream is valid JSON.
pub fn check_valid(request: &CreateRequest) {
    for (changes, input) in changes().into_iter().flat_map(|changes| inputs().map(|input| (changes, input))) {
        let body = request.upstream_body(&input, changes).parts.concat();
        assert!(json::validate(&body).is_ok(), "{}", body.escape_ascii());
    }
}

/// What goes upstream is what the client sent, apart from what is the gateway's.
pub fn check(request: &CreateRequest, sent: &Map<String, Value>) {
    for (changes, input) in changes().into_iter().flat_map(|changes| inputs().map(|input| (changes, input))) {
        let body = request.upstream_body(&input, changes).parts.concat();
        let decoded = serde_json::from_slice(&body);
        let Ok(Value::Object(mut actual)) = decoded else {
            panic!("{decoded:?}: {}", body.escape_ascii());
        };
        let mut expected = model(request, sent, changes, !input.history.is_empty());
        if changes.include_encrypted_reasoning {
            check_include(actual.remove("include").as_ref(), expected.remove("include"));
        }
        assert_eq!(actual, expected);
    }
}

fn check_include(actual: Option<&Value>, asked: Option<Value>) {
    let mut asked = match asked {
        Some(Value::Array(asked)) => asked,
        _ => Vec::new(),
    };
    if !asked.contains(&json!(ENCRYPTED_REASONING)) {
        asked.push(json!(ENCRYPTED_REASONING));
    }
    assert_eq!(actual, Some(&Value::Array(asked)));
}

fn model(
    request: &CreateRequest,
    sent: &Map<String, Value>,
    changes: Changes<'_>,
    has_history: bool,
) -> Map<String, Value> {
    let creates = request.operation == Operation::Create;
    let mut expected = sent.clone();
    expected.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
    if !creates || changes.streams || changes.is_frame {
        expected.remove("stream");
    }
    if creates && changes.streams && !changes.is_frame {
        expected.insert("stream".into(), json!(true));
    }
    if changes.is_frame {
        expected.remove("stream_options");
        expected.insert("type".into(), json!("response.create"));
    }
    if let (Some(model), true) = (changes.model, expected.contains_key("model")) {
        expected.insert("model".into(), json!(model));
    }
    if creates {
        expected.insert("store".into(), json!(changes.store));
    }
    if let (Some(previous), true) = (changes.previous, creates) {
        expected.insert("previous_response_id".into(), json!(previous));
    }
    let input = expected.remove("input").filter(|input| !input.is_null());
    if let Some(input) = with_history(input, request, has_history) {
        expected.insert("input".into(), input);
    }
    expected
}

fn with_history(own: Option<Value>, request: &CreateRequest, has_history: bool) -> Option<Value> {
    if !has_history {
        return own;
    }
    let mut items: Vec<Value> =
        serde_json::from_str(&format!("[{HISTORY}]")).expect("the history is an array");
    match (own, &request.input) {
        (Some(Value::Array(own)), _) => items.extend(own),
        (Some(text), Input::Text(_)) => {
            let content = json!([{"type": "input_text", "text": text}]);
            items.push(json!({"type": "message", "role": "user", "content": content}));
        }
        _ => {}
    }
    Some(Value::Array(items))
}
