//! Chat completions and embeddings.

use crate::support::{post_to, simulator};
use antiphon_simulator::upstream::{Options, Script};
use serde_json::{Value, json};

const CHAT: &str = "/chat/completions";
const EMBEDDINGS: &str = "/embeddings";

fn chat(text: &str) -> Value {
    json!({"model": "sim", "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn a_completion_says_what_the_script_or_the_words_say() {
    let simulator = simulator(Options::default()).await;
    simulator.script(Script::answer("scripted").usage(3, 2));
    let completion = post_to(&simulator, CHAT, &chat("x")).await.json();
    assert_eq!(completion["choices"][0]["message"]["content"], "scripted");
    assert_eq!(
        (&completion["usage"]["prompt_tokens"], &completion["usage"]["total_tokens"]),
        (&json!(3), &json!(5))
    );
    let said = post_to(&simulator, CHAT, &chat("Please SAY{yes}")).await.json();
    assert_eq!(said["choices"][0]["message"]["content"], "yes");
    let mut tool = chat("TOOLCALL");
    tool["tools"] = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let called = post_to(&simulator, CHAT, &tool).await.json();
    assert_eq!(called["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(called["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "f");
}

#[tokio::test]
async fn a_stream_ends_with_usage_if_that_is_asked_for_and_the_mark() {
    let simulator = simulator(Options::default()).await;
    for with_usage in [false, true] {
        let mut body = chat("SAY{hello}");
        body["stream"] = true.into();
        if with_usage {
            body["stream_options"] = json!({"include_usage": true});
        }
        let text = post_to(&simulator, CHAT, &body).await.text();
        assert_eq!(text.contains("\"usage\""), with_usage);
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    }
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_in_base64() {
    let simulator = simulator(Options::default()).await;
    let ask = |input: Value, format: &str| json!({"model": "sim", "input": input, "encoding_format": format});
    let floats = post_to(&simulator, EMBEDDINGS, &ask(json!(["a", "b"]), "float")).await.json();
    assert_eq!(floats["data"].as_array().unwrap().len(), 2);
    assert_ne!(floats["data"][0]["embedding"], floats["data"][1]["embedding"]);
    assert!(floats["usage"]["prompt_tokens"].is_u64());
    let base64 = post_to(&simulator, EMBEDDINGS, &ask(json!([1, 2]), "base64")).await.json();
    assert_eq!(
        (base64["data"].as_array().unwrap().len(), base64["data"][0]["embedding"].is_string()),
        (1, true)
    );
}

#[tokio::test]
async fn what_the_real_api_rejects_is_rejected() {
    let strict = simulator(Options::default()).await;
    let message = "Unrecognized request argument supplied: odd";
    let mut odd = chat("x");
    odd["odd"] = 1.into();
    post_to(&strict, CHAT, &odd).await.assert_refused(400, None, None, message);
    let mut options = chat("x");
    options["stream_options"] = json!({});
    assert_eq!(post_to(&strict, CHAT, &options).await.json()["error"]["param"], "stream_options");
    for (path, body, param) in [
        (CHAT, json!({"model": "sim"}), json!("messages")),
        (CHAT, json!({"messages": []}), json!("model")),
        (CHAT, json!({"model": "sim", "messages": []}), json!("messages")),
        (CHAT, json!({"model": "sim", "messages": [{"role": "robot"}]}), json!("messages[0].role")),
        (CHAT, json!({"model": "sim", "messages": [{"role": "tool"}]}), json!("messages[0].tool_call_id")),
        (EMBEDDINGS, json!({"model": "sim"}), json!("input")),
        (EMBEDDINGS, json!({"model": "sim", "input": ""}), Value::Null),
        (
            EMBEDDINGS,
            json!({"model": "sim", "input": "x", "encoding_format": "hex"}),
            json!("encoding_format"),
        ),
    ] {
        let refused = post_to(&strict, path, &body).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["error"]["param"]), (400, &param), "{body}");
    }
    let without = simulator(Options { other_endpoints: false, ..Options::default() }).await;
    for path in [CHAT, EMBEDDINGS] {
        assert_eq!(post_to(&without, path, &chat("x")).await.status, 404);
    }
}
