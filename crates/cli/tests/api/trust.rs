//! What comes from outside is not taken at its word: hosts, origins, echoes of secrets.

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Gateway, Setup, header};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::administering::Operator;
use crate::{gateway, simulator};

fn plain() -> Value {
    json!({"model": "sim", "input": "x"})
}

/// What the gateway answers to a request that is written by hand.
async fn raw(gateway: &Gateway, head: &str) -> String {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let body = plain().to_string();
    let request = format!(
        "POST /v1/responses {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn without_a_key_only_names_of_this_machine_are_served() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("allowed_hosts = [\"box.lan\"]").start().await;
    for host in ["localhost:1", "127.0.0.1", "[::1]:9", "BOX.lan"] {
        let reply = raw(&gateway, &format!("HTTP/1.1\r\nHost: {host}")).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{host}: {reply}");
    }
    let reply = raw(&gateway, "HTTP/1.1\r\nHost: rebound.example:8080").await;
    assert!(reply.starts_with("HTTP/1.1 403 ") && reply.contains("host_not_allowed"), "{reply}");
    // A key says more than a name.
    let secret = Operator::of(&gateway).await.key(json!({"name": "laptop"})).await;
    let head = format!("HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer {secret}");
    assert!(raw(&gateway, &head).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn without_a_key_pages_of_other_origins_are_refused() {
    let (upstream, gateway) = gateway().await;
    for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        let headers = [header(name, value), header("content-type", "text/plain")];
        let reply =
            gateway.client.request(Method::POST, "/v1/responses", &headers, plain().to_string()).await;
        assert_eq!(reply.refusal(), (403, Some("cross_site_request".to_owned()), None));
    }
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn a_request_names_one_host() {
    let (_upstream, gateway) = gateway().await;
    for head in ["HTTP/1.1", "HTTP/1.1\r\nHost: localhost\r\nHost: localhost"] {
        let reply = raw(&gateway, head).await;
        assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("invalid_host"), "{head}: {reply}");
    }
}

#[tokio::test]
async fn an_upgrade_needs_http_1_1_and_has_no_body() {
    let (_upstream, gateway) = gateway().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for head in [
        format!("HTTP/1.0\r\nHost: localhost\r\n{upgrade}"),
        format!("HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n{upgrade}"),
    ] {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        stream.write_all(format!("GET /v1/responses {head}\r\n\r\n{{}}").as_bytes()).await.unwrap();
        let mut reply = vec![0; 12];
        stream.read_exact(&mut reply).await.unwrap();
        assert!(reply.ends_with(b" 400"), "{head}: {}", String::from_utf8_lossy(&reply));
    }
}

#[tokio::test]
async fn a_credential_that_an_upstream_echoes_does_not_reach_the_client() {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream)
        .account(0, "api_key = { value = \"sk-very-secret\" }\nheaders = { x-token = \"other-secret\" }");
    let gateway = setup.start().await;
    let body = r#"{"error":{"message":"you sent sk-very-secret and other-secret","type":"t","param":null,"code":"odd"}}"#;
    upstream.script(Script::http(400, body).header("x-request-id", "sk-very-secret"));
    let reply = gateway.client.create(plain()).await;
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status, 400);
    assert!(text.contains("you sent [redacted] and [redacted]"), "{text}");
    assert_eq!(reply.header("x-request-id"), None);
}
