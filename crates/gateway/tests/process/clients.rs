//! Real clients: the OpenAI Python SDK and Codex CLI.

use std::path::Path;
use std::process::Stdio;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Process, Setup, client_tool};
use tempfile::TempDir;
use tokio::process::Command;

use crate::binary;

#[tokio::test]
async fn the_openai_python_sdk_works() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/test_openai_sdk.py");
    let output = Command::new(client_tool("python/bin/python"))
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(tests)
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

#[tokio::test]
async fn codex_cli_works_through_a_tool_call_over_http() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let home = TempDir::new().unwrap();
    let config = format!(
        "model = \"gpt-5.4\"\nmodel_provider = \"antiphon\"\n[model_providers.antiphon]\nname = \"Antiphon\"\n\
         base_url = \"{}/v1\"\nenv_key = \"ANTIPHON_KEY\"\nwire_api = \"responses\"\nsupports_websockets = false\n",
        gateway.url
    );
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let output = Command::new(client_tool("node_modules/.bin/codex"))
        .args([
            "exec",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
            "Please TOOLCALL now",
        ])
        .current_dir(home.path())
        .env("CODEX_HOME", home.path())
        .env("ANTIPHON_KEY", "any")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let shown =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    let last = upstream.last_request().unwrap();
    let input = last.json()["input"].clone();
    let answer = input.as_array().unwrap().last().unwrap().clone();
    assert_eq!(answer["type"], "function_call_output", "{shown}");
    assert!(answer["output"].as_str().unwrap().contains("tool-ran-ok"), "{answer}");
    assert!(last.header("session-id").is_some() && last.header("x-codex-window-id").is_some());
    assert_eq!(last.header("authorization"), None);
}
