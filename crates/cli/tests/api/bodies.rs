//! Request bodies: compressed, too large, incomplete.

use std::io::Write;

use antiphon_testkit::{Setup, header};
use http::Method;
use serde_json::json;

use crate::{gateway, simulator};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

#[tokio::test]
async fn compressed_bodies_are_decompressed() {
    let (upstream, gateway) = gateway().await;
    for size in [10, 200_000] {
        let body = json!({"model": "sim", "input": "x".repeat(size)}).to_string();
        for (encoding, bytes) in [
            ("gzip", gzip(body.as_bytes())),
            ("zstd", zstd(body.as_bytes())),
            ("identity", body.clone().into_bytes()),
        ] {
            let headers = [header("content-encoding", encoding)];
            gateway.client.request(Method::POST, "/v1/responses", &headers, bytes).await.ok();
            assert_eq!(
                upstream.last_request().unwrap().json()["input"].as_str().unwrap().len(),
                size,
                "{encoding}"
            );
            assert_eq!(upstream.last_request().unwrap().header("content-encoding"), None);
        }
    }
}

#[tokio::test]
async fn unsupported_and_invalid_encodings_are_rejected() {
    let (upstream, gateway) = gateway().await;
    for (encoding, bytes, status) in [
        ("br", b"x".to_vec(), 415),
        ("gzip", b"no gzip".to_vec(), 400),
        ("zstd", zstd(b"{\"a\":1}")[..9].to_vec(), 400),
    ] {
        let headers = [header("content-encoding", encoding)];
        let reply = gateway.client.request(Method::POST, "/v1/responses", &headers, bytes).await;
        assert_eq!(reply.refusal().0, status, "{encoding}");
    }
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_rejected_with_the_limit_in_every_form() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_body = \"100KiB\"").start().await;
    let large = json!({"model": "sim", "input": "x".repeat(3_000_000)}).to_string();
    let bombs = [
        ("identity", large.clone().into_bytes()),
        ("gzip", gzip(large.as_bytes())),
        ("zstd", zstd(large.as_bytes())),
    ];
    for (encoding, bytes) in bombs {
        let headers = [header("content-encoding", encoding)];
        let reply = gateway.client.request(Method::POST, "/v1/responses", &headers, bytes).await;
        assert_eq!(
            (reply.refusal().0, reply.refusal().1.as_deref()),
            (413, Some("request_too_large")),
            "{encoding}"
        );
        assert!(reply.json()["error"]["message"].as_str().unwrap().contains("102400"));
    }
    assert_eq!(upstream.counts().requests, 0);
    gateway.client.created(json!({"model": "sim", "input": "x".repeat(90_000)})).await;
}

#[tokio::test]
async fn a_stalled_body_times_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("timeouts.body_read = \"100ms\"").start().await;
    let address = gateway.address();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{\"model\"")
        .await
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains("request_timeout"), "{reply}");
}

#[tokio::test]
async fn a_form_of_the_dashboard_is_refused_as_soon_as_it_is_too_large() {
    let (_upstream, gateway) = gateway().await;
    let form = |size: usize| format!("token={}", "x".repeat(size));
    let send = async |size: usize| {
        gateway
            .client
            .request(Method::POST, "/login", &[header("sec-fetch-site", "same-origin")], form(size))
            .await
    };
    assert_eq!(send(100 * 1024).await.status.as_u16(), 413);
    assert_eq!(send(10).await.status.as_u16(), 401);
}

#[tokio::test]
async fn a_body_whose_chunks_are_malformed_is_told_so() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (_upstream, gateway) = gateway().await;
    for chunks in ["zz\r\n", "2\r\n{}x\r\n", "-1\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        let head = "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{chunks}").as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("its chunks are malformed"), "{reply}");
    }
}
