//! The conformance cases of tests/conformance: Antiphon passes them all, and servers that hang fail them in time.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Process, Setup, client_tool};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::binary;

/// Longer than five times the timeout of one second, by far.
const AT_MOST: Duration = Duration::from_secs(60);
/// Cases that compact a context, count it, or want encrypted reasoning.
const BEYOND_A_CHAT: [&str; 6] = [
    "websocket-compact-new-chain",
    "compact-response",
    "chain-holds-its-history",
    "item-references",
    "include-decides",
    "conversation-holds-its-history",
];
const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

async fn run(base_url: &str, options: &[&str]) -> Output {
    Command::new(client_tool("python/bin/python"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance"))
        .args(["--base-url", base_url, "--model", "sim"])
        .args(options)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("HTTP_PROXY")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

/// The results of all groups against a gateway whose only account has these lines.
async fn results_over(lines: &str) -> Vec<Value> {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).account(0, &format!("models = [\"sim\"]\n{lines}"));
    let gateway = Process::start(binary(), &setup).await;
    let output = run(&format!("{}/v1", gateway.url), &["--with", "background,conversations", "--json"]).await;
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn failed(results: &[Value]) -> Vec<&Value> {
    results.iter().filter(|result| result["passed"] != true).collect()
}

#[tokio::test]
async fn antiphon_passes_the_conformance_cases_of_all_groups() {
    let results = results_over("").await;
    assert!(failed(&results).is_empty(), "{:#?}", failed(&results));
    for group in ["open-responses", "chains", "errors", "sockets", "background", "conversations"] {
        assert!(results.iter().any(|result| result["group"] == group), "{group}");
    }
}

#[tokio::test]
async fn a_chat_account_fails_only_the_cases_of_what_a_chat_cannot_do() {
    let results = results_over("api = \"chat\"").await;
    let failed = failed(&results);
    let names: Vec<_> = failed.iter().map(|result| result["name"].as_str().unwrap()).collect();
    assert_eq!(names, BEYOND_A_CHAT, "{failed:#?}");
}

/// The results of two cases, which have to fail, against a server that does this with every connection.
async fn failures<S, F>(serve: S) -> Vec<Value>
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(connection));
        }
    });
    let options = ["--timeout", "1", "--json", "--case", "basic-response", "--case", "streaming-response"];
    let output = tokio::time::timeout(AT_MOST, run(&url, &options)).await.expect("it ends");
    serving.abort();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn servers_that_hang_fail_every_case_in_time() {
    let silent = failures(|mut connection| async move {
        let mut request = Vec::new();
        connection.read_to_end(&mut request).await.ok();
    });
    let endless = failures(|mut connection| async move {
        connection.write_all(STREAM).await.ok();
        while connection.write_all(b": still there\n\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let closing = failures(|connection| async move { drop(connection) });
    let (silent, endless, closing) = tokio::join!(silent, endless, closing);
    for results in [&silent, &endless, &closing] {
        assert_eq!(results.len(), 2);
        assert!(
            results.iter().all(|result| result["passed"] == false && result["reason"] != ""),
            "{results:?}"
        );
    }
    assert!(silent[0]["reason"].as_str().unwrap().contains("Timeout"), "{silent:?}");
    assert_eq!(endless[0]["reason"], "it did not end within 5 s");
}

#[tokio::test]
async fn wrong_options_exit_with_2() {
    for wrong in [&["--case", "no-such-case"][..], &["--parallel", "0"], &["--with", "all"]] {
        let output = run("http://127.0.0.1:1/v1", wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}
