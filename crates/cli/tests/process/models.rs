//! A real model server as the upstream: llama.cpp's own, with a tiny model that `tests/model` makes. It has chat completions.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use antiphon_testkit::{Process, Setup, client_tool};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::binary;
use crate::clients::{codex_with, succeeds};

/// A running model server; it ends when it is dropped.
struct Model {
    url: String,
    _child: Child,
    _folder: TempDir,
}

impl Model {
    async fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let mut child = Command::new(client_tool("model/bin/python"))
            .arg(tests().join("serve.py"))
            .arg(folder.path())
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = loop {
            let line = lines.next_line().await.unwrap().expect("it tells its address");
            if line.starts_with("http") {
                break line;
            }
        };
        Self { url, _child: child, _folder: folder }
    }

    fn setup(&self) -> Setup {
        Setup::with_accounts([("model", self.url.as_str())]).account(0, "api = \"chat\"")
    }
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/model")
}

#[tokio::test]
async fn the_openai_python_sdk_works_with_a_real_model() {
    let model = Model::start(&["--key", "sk-model"]).await;
    let setup = model.setup().account_key("sk-model");
    let gateway = Process::start(binary(), &setup).await;
    let output = Command::new(client_tool("python/bin/python"))
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(tests())
        .env("ANTIPHON_URL", &gateway.url)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("HTTP_PROXY")
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let (log, _) = gateway.terminate().await;
    assert!(output.status.success(), "{text}{}\n{log:#?}", String::from_utf8_lossy(&output.stderr));
}

/// Codex offers all of its tools; the model answers with text.
#[tokio::test]
async fn codex_cli_works_with_a_real_model() {
    let model = Model::start(&["--text-only", "--context", "65536", "--slots", "1"]).await;
    let gateway = Process::start(binary(), &model.setup()).await;
    for sockets in [false, true] {
        let home = TempDir::new().unwrap();
        succeeds(codex_with(&home, &gateway, "tiny", sockets, &["Say anything"])).await;
    }
}

#[tokio::test]
async fn turns_wait_while_all_slots_are_taken() {
    let model = Model::start(&["--slots", "1"]).await;
    let gateway = Process::start(binary(), &model.setup()).await;
    let schema = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": false});
    let format = json!({"format": {"type": "json_schema", "name": "answer", "schema": schema}});
    let request = json!({"model": "tiny", "input": "Which?", "text": format, "store": false});
    let turns = (0..4).map(|_| gateway.client.created(&request));
    for response in futures_util::future::join_all(turns).await {
        assert_eq!(response["status"], "completed", "{response}");
    }
}

#[tokio::test]
async fn a_wrong_key_for_the_model_server_is_no_fault_of_the_client() {
    let model = Model::start(&["--key", "sk-model"]).await;
    let gateway = Process::start(binary(), &model.setup().account_key("sk-other")).await;
    let reply = gateway.client.create(json!({"model": "tiny", "input": "a"})).await;
    assert_eq!(reply.status, 503, "{:?}", reply.body);
    assert!(!String::from_utf8_lossy(&reply.body).contains("sk-other"));
}
