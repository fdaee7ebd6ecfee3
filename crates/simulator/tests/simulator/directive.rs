//! Directives: words in the user's text that control the reply.

use crate::support::{ask, ask_stream, post, simulator, user};
use antiphon_simulator::upstream::{Options, Script, Simulator};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

async fn plain() -> Simulator {
    simulator(Options::default()).await
}

fn tool(name: &str, parameters: impl Into<Value>) -> Value {
    json!({"type": "function", "name": name, "parameters": parameters.into()})
}

#[tokio::test]
async fn say_and_long_choose_the_text() {
    let simulator = plain().await;
    assert_eq!(post(&simulator, &ask("please SAY{hello {you}} now")).await.output_text(), "hello {you}");
    assert_eq!(post(&simulator, &ask("LONG{1234}")).await.output_text().len(), 1234);
}

#[tokio::test]
async fn echo_returns_the_input_byte_for_byte() {
    let input = r#"[{"role":"user","content":"ECHO \u00e9"},  {"type":"odd","n":1.50}]"#;
    let body = format!(r#"{{"model":"sim","input":{input}}}"#);
    assert_eq!(crate::support::post_bytes(&plain().await, body).await.output_text(), input);
}

#[tokio::test]
async fn toolcall_prefers_the_tool_it_knows() {
    let simulator = plain().await;
    let mut request = ask("Please TOOLCALL MARK");
    request["tools"] = json!([tool("other", json!({})), tool("exec_command", json!({}))]);
    let call = post(&simulator, &request).await.json()["output"][0].clone();
    assert_eq!(
        (&call["name"], &call["arguments"]),
        (&json!("exec_command"), &json!(r#"{"cmd":"echo tool-ran-ok"}"#))
    );
}

#[tokio::test]
async fn toolcall_fills_the_required_arguments_or_takes_those_given() {
    let simulator = plain().await;
    let schema = json!({"type": "object", "required": ["city", "days"],
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string"}}});
    let mut request = ask("TOOLCALL");
    request["tools"] = json!([{"type": "web_search"}, tool("weather", schema)]);
    let call = post(&simulator, &request).await.json()["output"][0].clone();
    assert_eq!(call["arguments"], r#"{"city":"sample","days":1}"#);
    request["input"] = json!(r#"TOOLCALL{"city":"Bonn"}"#);
    let call = post(&simulator, &request).await.json()["output"][0].clone();
    assert_eq!(call["arguments"], r#"{"city":"Bonn"}"#);
}

#[tokio::test]
async fn a_tool_output_ends_the_loop() {
    let simulator = plain().await;
    let mut request = ask("TOOLCALL");
    request["tools"] = json!([tool("exec_command", json!({}))]);
    let call = post(&simulator, &request).await.json()["output"][0].clone();
    let output = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "tool-ran-ok"});
    request["input"] = json!([user("TOOLCALL"), call, output]);
    let reply = post(&simulator, &request).await;
    assert_eq!(reply.output_text(), "The tool has answered.");
    assert_eq!(reply.json()["output"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn only_the_newest_user_text_counts() {
    let input = json!([user("FAIL"), user("SAY{fine}")]);
    assert_eq!(post(&plain().await, &ask(input)).await.output_text(), "fine");
}

#[tokio::test]
async fn reason_puts_a_reasoning_item_first() {
    let reply = post(&plain().await, &ask("REASON SAY{yes}")).await;
    assert_eq!(reply.json()["output"][0]["type"], "reasoning");
    assert_eq!(reply.output_text(), "yes");
}

#[tokio::test]
async fn error_answers_with_status_and_code() {
    let reply = post(&plain().await, &ask("ERROR{429,rate_limit_exceeded}")).await;
    assert_eq!(reply.status, 429);
    assert_eq!(reply.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(post(&plain().await, &ask("ERROR{503}")).await.status, 503);
}

#[tokio::test]
async fn fail_incomplete_and_cut_end_the_stream() {
    let simulator = plain().await;
    let failed = post(&simulator, &ask_stream("FAIL")).await;
    assert_eq!(failed.kinds().last().unwrap(), "response.failed");
    let incomplete = post(&simulator, &ask_stream("INCOMPLETE")).await;
    assert_eq!(incomplete.kinds().last().unwrap(), "response.incomplete");
    let cut = post(&simulator, &ask_stream("CUT{4}")).await;
    assert_eq!((cut.events().len(), cut.whole), (4, false));
}

#[tokio::test]
async fn delay_waits_before_it_answers() {
    let started = Instant::now();
    post(&plain().await, &ask("DELAY{30}")).await;
    assert!(started.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn a_queued_script_goes_before_a_directive_and_the_default_after_it() {
    let simulator = plain().await;
    simulator.always(Script::answer("always")).script(Script::answer("queued"));
    assert_eq!(post(&simulator, &ask("SAY{said}")).await.output_text(), "queued");
    assert_eq!(post(&simulator, &ask("SAY{said}")).await.output_text(), "said");
    assert_eq!(post(&simulator, &ask("nothing")).await.output_text(), "always");
}
