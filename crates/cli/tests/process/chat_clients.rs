//! Real clients of the Responses API at an upstream with chat completions only.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Process, Setup, client_tool, said};
use tempfile::TempDir;
use tokio::process::Command;

use crate::binary;
use crate::clients::{codex_with, succeeds};

async fn over(api: &str) -> (Simulator, Setup) {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).account(0, &format!("api = \"{api}\""));
    (upstream, setup)
}

#[tokio::test]
async fn codex_cli_works_through_a_tool_call_and_resumes_over_either_transport() {
    for sockets in [false, true] {
        let (upstream, setup) = over("chat").await;
        let gateway = Process::start(binary(), &setup).await;
        let home = TempDir::new().unwrap();
        let run = async |arguments: &[&str]| {
            succeeds(codex_with(&home, &gateway, "gpt-5.4", sockets, arguments)).await
        };
        let shown = run(&["Please REASON and TOOLCALL now"]).await;
        let lines = said(&upstream.last_request().unwrap());
        let [.., thought, call, output] = &lines[..] else { panic!("{lines:?}") };
        assert!(thought.starts_with("thought: ") && call.contains("exec_command("), "{lines:?}\n{shown}");
        assert!(output.contains("tool-ran-ok"), "{lines:?}");
        assert!(shown.contains("The tool has answered."), "{shown}");

        let shown = run(&["resume", "--last", "Please SAY{all is well}"]).await;
        assert!(shown.contains("all is well"), "{shown}");
        let resumed = said(&upstream.last_request().unwrap());
        assert!(resumed.iter().any(|line| line.contains("tool-ran-ok")), "{resumed:?}");
        assert!(resumed.contains(&"assistant: The tool has answered.".to_owned()), "{resumed:?}");
    }
}

#[tokio::test]
async fn the_openai_and_agents_sdks_for_python_work() {
    let (_upstream, setup) = over("chat").await;
    let gateway = Process::start(binary(), &setup).await;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/test_openai_tools.py");
    let mut command = Command::new(client_tool("python/bin/python"));
    command
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(tests)
        .env("ANTIPHON_URL", &gateway.url)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("HTTP_PROXY")
        .kill_on_drop(true);
    succeeds(command).await;
}

/// The Responses API as well: what the clients do is the same.
#[tokio::test]
async fn the_ai_and_agents_sdks_for_node_work() {
    for api in ["chat", "responses"] {
        let (_upstream, setup) = over(api).await;
        let gateway = Process::start(binary(), &setup).await;
        let mut command = Command::new("node");
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/tools.mjs"))
            .env("ANTIPHON_URL", &gateway.url)
            .env("CLIENTS", client_tool(""))
            .kill_on_drop(true);
        let shown = tokio::time::timeout(Duration::from_secs(300), succeeds(command)).await.unwrap();
        assert!(shown.starts_with("ok\n"), "{api}: {shown}");
    }
}

/// Its program is published for each platform, and pinned for this one.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn opencode_works_through_a_tool_call() {
    for api in ["chat", "responses"] {
        let (upstream, setup) = over(api).await;
        let gateway = Process::start(binary(), &setup).await;
        let home = TempDir::new().unwrap();
        let run = async |arguments: &[&str]| succeeds(opencode(&home, &gateway, arguments)).await;
        let shown = run(&["run", "Please TOOLCALL now"]).await;
        let lines = said(&upstream.last_request().unwrap());
        assert!(lines.last().unwrap().contains("tool-ran-ok"), "{api}: {lines:?}\n{shown}");
        assert!(shown.contains("The tool has answered."), "{api}: {shown}");
        let shown = run(&["run", "--continue", "Please SAY{all is well}"]).await;
        let resumed = said(&upstream.last_request().unwrap());
        assert!(shown.contains("all is well"), "{api}: {shown}");
        assert!(resumed.contains(&"assistant: The tool has answered.".to_owned()), "{api}: {resumed:?}");
    }
}

#[cfg(target_arch = "x86_64")]
fn opencode(home: &TempDir, gateway: &Process, arguments: &[&str]) -> Command {
    let config = serde_json::json!({
        "model": "antiphon/gpt-5.4",
        "small_model": "antiphon/gpt-5.4",
        "provider": {"antiphon": {
            "npm": "@ai-sdk/openai",
            "options": {"baseURL": format!("{}/v1", gateway.url), "apiKey": "any"},
            "models": {"gpt-5.4": {}},
        }},
    });
    std::fs::write(home.path().join("opencode.json"), config.to_string()).unwrap();
    let mut command = Command::new(client_tool("node_modules/opencode-linux-x64-baseline/bin/opencode"));
    command.args(arguments).current_dir(home.path()).stdin(Stdio::null()).kill_on_drop(true);
    for folder in ["PWD", "HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
        command.env(folder, home.path());
    }
    // It would ask servers of its own.
    for off in ["AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS"] {
        command.env(format!("OPENCODE_DISABLE_{off}"), "1");
    }
    command
}
