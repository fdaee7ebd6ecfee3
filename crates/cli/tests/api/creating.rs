//! POST /v1/responses, collected.

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Setup, header};
use http::Method;
use serde_json::json;

use crate::{gateway, simulator};

#[tokio::test]
async fn the_response_is_the_upstreams_with_the_gateways_members() {
    let (upstream, gateway) = gateway().await;
    let response =
        gateway.client.created(json!({"model": "sim", "input": "hi", "metadata": {"a": "b"}})).await;
    let id = response["id"].as_str().unwrap();
    assert!(id.starts_with("resp_") && id.len() == 37, "{id}");
    assert_eq!(response["store"], true);
    assert_eq!(response["background"], false);
    assert_eq!(response["previous_response_id"], json!(null));
    assert_eq!(response["metadata"], json!({"a": "b"}));
    assert_eq!(response["object"], "response");
    let sent = upstream.last_request().unwrap().json();
    assert_eq!(sent["store"], false);
    assert_eq!(sent["input"], "hi");
    assert_eq!(sent["include"], json!(["reasoning.encrypted_content"]));
}

#[tokio::test]
async fn unknown_members_pass_both_ways_byte_for_byte() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::http(200, r#"{"new":{"n":1.50e+400,"s":"\u00e9\/"},"id":"resp_up","object":"response","status":"completed","output":[{"type":"new_item","x":0.10}],"model":"m"}"#,
    ));
    let reply = gateway
        .client
        .create(r#"{"model":"sim","input":"hi","store":false,"future":{"n":123456789012345678901234567890,"k":[1.0,1e2]}}"#)
        .await;
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(text.contains(r#""new":{"n":1.50e+400,"s":"\u00e9\/"}"#), "{text}");
    assert!(text.contains(r#""output":[{"type":"new_item","x":0.10}]"#), "{text}");
    assert!(!text.contains("resp_up"), "{text}");
    let sent = String::from_utf8(upstream.last_request().unwrap().body.to_vec()).unwrap();
    assert!(sent.contains(r#""future":{"n":123456789012345678901234567890,"k":[1.0,1e2]}"#), "{sent}");
    assert!(sent.contains(r#""store":false"#) && !sent.contains("include"), "{sent}");
}

#[tokio::test]
async fn members_for_sockets_and_the_gateway_do_not_go_upstream() {
    let (upstream, gateway) = gateway().await;
    let body = json!({"model": "sim", "input": "hi", "generate": true, "stream_id": "a", "background": false,
        "previous_response_id": null, "conversation": null});
    gateway.client.created(body).await;
    let sent = upstream.last_request().unwrap().json();
    for name in ["generate", "stream_id", "background", "previous_response_id", "conversation"] {
        assert!(sent.get(name).is_none(), "{name} went upstream");
    }
}

#[tokio::test]
async fn headers_pass_as_the_contract_says() {
    let (upstream, gateway) = gateway().await;
    upstream.script(
        Script::answer("x")
            .header("x-codex-turn-state", "s1")
            .header("set-cookie", "a=b")
            .header("x-ratelimit-remaining-tokens", "7"),
    );
    let headers = [
        header("authorization", "Bearer sk-the-clients-own"),
        header("connection", "keep-alive, X-Codex-Hop"),
        header("x-codex-hop", "1"),
        header("cookie", "c=d"),
        header("x-api-key", "secret"),
        header("openai-beta", "x=1"),
        header("x-codex-window-id", "w"),
        header("session-id", "s"),
        header("user-agent", "me/1"),
    ];
    let reply = gateway
        .client
        .request(Method::POST, "/v1/responses/", &headers, r#"{"model":"sim","input":"x"}"#)
        .await;
    reply.ok();
    let sent = upstream.last_request().unwrap();
    assert_eq!(sent.header("authorization"), None);
    assert_eq!(sent.header("cookie"), None);
    assert_eq!(sent.header("x-api-key"), None);
    assert_eq!(sent.header("x-codex-hop"), None, "`connection` names it");
    assert_eq!(sent.header("openai-beta"), Some("x=1"));
    assert_eq!(sent.header("x-codex-window-id"), Some("w"));
    assert_eq!(sent.header("session-id"), Some("s"));
    assert_eq!(sent.header("user-agent"), Some("me/1"));
    assert_eq!(reply.header("x-codex-turn-state"), Some("s1"));
    assert_eq!(reply.header("x-ratelimit-remaining-tokens"), Some("7"));
    assert_eq!(reply.header("set-cookie"), None);
    assert!(reply.header("x-request-id").is_some());
}

#[tokio::test]
async fn the_codex_prefix_reaches_the_same_handlers() {
    let (_upstream, gateway) = gateway().await;
    let body = r#"{"model":"sim","input":"x"}"#;
    let created = gateway.client.request(Method::POST, "/backend-api/codex/responses", &[], body).await.ok();
    let id = created["id"].as_str().unwrap();
    assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.ok()["id"], *id);
    assert_eq!(gateway.client.get("/backend-api/codex/models?client_version=1").await.ok()["object"], "list");
}

#[tokio::test]
async fn bad_requests_are_rejected_with_the_error_envelope_and_without_the_upstream() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "models = [\"sim\"]").start().await;
    let cases = [
        ("{", 400, Some("invalid_json"), None),
        ("[]", 400, Some("invalid_json"), None),
        ("", 400, Some("invalid_json"), None),
        (r#"{"model":"sim"}"#, 400, Some("missing_required_parameter"), Some("input")),
        (r#"{"input":"x"}"#, 400, Some("missing_required_parameter"), Some("model")),
        (
            r#"{"model":"sim","input":"x","previous_response_id":7}"#,
            400,
            Some("invalid_type"),
            Some("previous_response_id"),
        ),
        (r#"{"model":"sim","input":"x","background":"yes"}"#, 400, Some("invalid_type"), Some("background")),
        (
            r#"{"model":"sim","input":"x","conversation":"conv_1","previous_response_id":"resp_1"}"#,
            400,
            Some("mutually_exclusive_parameters"),
            None,
        ),
        (r#"{"model":"sim","input":"x","conversation":"conv_1"}"#, 404, None, None),
        (r#"{"model":"no-such","input":"x"}"#, 404, Some("model_not_found"), Some("model")),
        (r#"{"model":"sim","input":[{"type":"item_reference","id":"msg_1"}]}"#, 404, None, Some("input")),
    ];
    for (body, status, code, param) in cases {
        let refusal = gateway.client.create(body).await.refusal();
        assert_eq!((refusal.0, refusal.1.as_deref(), refusal.2.as_deref()), (status, code, param), "{body}");
    }
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn unknown_urls_and_wrong_methods_get_the_error_envelope() {
    let (_upstream, gateway) = gateway().await;
    assert_eq!(gateway.client.get("/v1/nothing").await.refusal().0, 404);
    assert_eq!(gateway.client.request(Method::PUT, "/v1/responses", &[], "").await.refusal().0, 405);
}
