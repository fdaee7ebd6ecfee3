//! Real clients: the OpenAI and Agents SDKs for Python and Node.js, and Codex CLI.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Process, Setup, client_tool};
use tempfile::TempDir;
use tokio::process::Command;

use crate::binary;
use crate::command::antiphon;

/// Node.js alone takes seconds to load the SDKs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn the_openai_python_sdk_works() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    // Any other model is unknown to the gateway, instead of being left to the upstream.
    let setup = Setup::over(&upstream).account(0, "models = [\"sim\", \"gpt-5.4\"]");
    let gateway = Process::start(binary(), &setup).await;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients");
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

/// Requests of every kind that the OpenAPI document allows, and many that it does not. Each reply must match the document,
/// and none may be a server error.
#[tokio::test]
async fn the_admin_api_matches_its_openapi_document() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let dir = setup.database().parent().unwrap().to_owned();
    let (code, token, error) = antiphon(&dir, &["--config", "process.toml", "admin", "token"], &[]).await;
    assert_eq!(code, 0, "{error}");
    // Requests without the token get 401 and eventually 429, which another test covers.
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                  response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance,\
                  use_after_free,ensure_resource_availability";
    let output = Command::new(client_tool("python/bin/schemathesis"))
        .args(["run", &format!("{}/api/openapi.json", gateway.url), "--checks", checks])
        .args(["--header", &format!("Authorization: Bearer {}", token.trim())])
        // It never ends.
        .args(["--exclude-path", "/api/live"])
        .args(["--max-examples", "30", "--seed", "1", "--continue-on-failure", "--no-color"])
        .current_dir(&dir)
        .env_remove("HTTP_PROXY")
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    gateway.client.get("/healthz").await.ok();
}

/// `codex exec` with this prompt, at this gateway.
fn codex(home: &TempDir, gateway: &Process, prompt: &str) -> Command {
    codex_over(home, gateway, false, &[prompt])
}

/// As [`codex`], with WebSockets or without.
fn codex_over(home: &TempDir, gateway: &Process, sockets: bool, arguments: &[&str]) -> Command {
    codex_with(home, gateway, "gpt-5.4", sockets, arguments)
}

/// As [`codex_over`], with another model.
pub(crate) fn codex_with(
    home: &TempDir,
    gateway: &Process,
    model: &str,
    sockets: bool,
    arguments: &[&str],
) -> Command {
    let config = format!(
        "model = \"{model}\"\nmodel_provider = \"antiphon\"\n[model_providers.antiphon]\nname = \"Antiphon\"\n\
         base_url = \"{}/v1\"\nenv_key = \"ANTIPHON_KEY\"\nwire_api = \"responses\"\nsupports_websockets = {sockets}\n",
        gateway.url
    );
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let mut command = Command::new(client_tool("node_modules/.bin/codex"));
    command
        .args(["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"])
        .args(arguments)
        .current_dir(home.path())
        .env("CODEX_HOME", home.path())
        .env("ANTIPHON_KEY", "any")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The tool's output: the last item of the upstream's last request.
fn tool_answer(upstream: &Simulator) -> String {
    let input = upstream.last_request().unwrap().input();
    let answer = input.last().unwrap();
    assert_eq!(answer["type"], "function_call_output", "{answer}");
    answer["output"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn codex_cli_works_through_a_tool_call_over_http() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let home = TempDir::new().unwrap();
    let output = codex(&home, &gateway, "Please TOOLCALL now").output().await.unwrap();
    let shown =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    assert!(tool_answer(&upstream).contains("tool-ran-ok"), "{shown}");
    let last = upstream.last_request().unwrap();
    assert!(last.header("session-id").is_some() && last.header("x-codex-window-id").is_some());
    assert_eq!(last.header("authorization"), None);
}

/// The second account cannot read the reasoning that the first one's upstream has encrypted.
#[tokio::test]
async fn codex_cli_works_through_a_failover_between_a_tool_call_and_its_output() {
    let upstream = async |boundary: &str| {
        Simulator::bind(Options { boundary: boundary.to_owned(), ..Options::default() }).await.unwrap()
    };
    let upstreams = [upstream("one").await, upstream("two").await];
    let setup =
        Setup::with_accounts([("one", upstreams[0].url().as_str()), ("two", upstreams[1].url().as_str())]);
    let gateway = Process::start(binary(), &setup).await;
    let home = TempDir::new().unwrap();
    let running = codex(&home, &gateway, "Please REASON and TOOLCALL now").output();
    let fail_over = async {
        let origin = tokio::select! {
            () = upstreams[0].wait_until(|upstream| upstream.counts().requests > 0) => 0,
            () = upstreams[1].wait_until(|upstream| upstream.counts().requests > 0) => 1,
        };
        for _ in 0..5 {
            upstreams[origin].script(Script::http(500, "{}"));
        }
        origin
    };
    let (output, origin) = tokio::join!(running, fail_over);
    let output = output.unwrap();
    let shown =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    let other = &upstreams[1 - origin];
    assert!(tool_answer(other).contains("tool-ran-ok"), "{shown}");
    let input = other.last_request().unwrap().input();
    assert!(input.iter().all(|item| item["encrypted_content"].is_null()), "{input:#?}");
    assert!(input.iter().any(|item| item["content"] == "Thinking it over."), "{input:#?}");
    assert_eq!(other.counts().requests, 2, "once with the items that it cannot read, and once without");
}

/// Two lanes at once, an error that leaves the socket open, and chains that continue over either transport.
#[tokio::test]
async fn the_openai_node_sdk_works_over_a_socket_over_either_kind_of_upstream() {
    for transport in ["http", "websocket"] {
        let upstream = Simulator::bind(Options::default()).await.unwrap();
        let setup = Setup::over(&upstream).account(0, &format!("transport = \"{transport}\""));
        let gateway = Process::start(binary(), &setup).await;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/sockets.mjs");
        let running = Command::new("node")
            .arg(script)
            .env("ANTIPHON_URL", &gateway.url)
            .env("CLIENTS", client_tool(""))
            .env("REPLAYS", if transport == "http" { "yes" } else { "" })
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
        let (log, _) = gateway.terminate().await;
        let shown = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success() && shown[0] == "ok\n", "{transport}: {shown:?}\n{log:#?}");
        let sockets = upstream.sockets();
        assert_eq!(sockets.is_empty(), transport == "http");
        let turns = sockets.iter().flat_map(antiphon_simulator::upstream::ReceivedSocket::json);
        let known = turns.filter(|turn| turn["previous_response_id"].is_string()).count();
        assert_eq!(known, if transport == "http" { 0 } else { 3 }, "branches are replayed, the rest goes on");
    }
}

#[tokio::test]
async fn conversations_work_with_the_openai_and_agents_sdks_for_node() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/conversations.mjs");
    let running = Command::new("node")
        .arg(script)
        .env("ANTIPHON_URL", &gateway.url)
        .env("CLIENTS", client_tool(""))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    let (log, _) = gateway.terminate().await;
    let shown = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && shown[0] == "ok\n", "{shown:?}\n{log:#?}");
}

/// How many turns a gateway has served on sockets, and how many over HTTP.
async fn turns(gateway: &Process) -> (u64, u64) {
    let text = gateway.client.metrics().await;
    let turns_over = |transport: &str| -> u64 {
        let start = format!("antiphon_turns_total{{transport=\"{transport}\"");
        let lines = text.lines().filter(|line| line.starts_with(&start));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    };
    (turns_over("websocket"), turns_over("sse") + turns_over("http"))
}

pub(crate) async fn succeeds(mut command: Command) -> String {
    let output = command.output().await.unwrap();
    let shown =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    shown
}

#[tokio::test]
async fn codex_cli_works_through_a_tool_call_over_a_socket_and_resumes_after_a_restart() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let home = TempDir::new().unwrap();
    let shown = succeeds(codex_over(&home, &gateway, true, &["Please TOOLCALL now"])).await;
    assert!(tool_answer(&upstream).contains("tool-ran-ok"), "{shown}");
    // The gateway serves the warm-up itself: the upstream sees only the call and its output.
    assert_eq!((upstream.counts().requests, turns(&gateway).await), (2, (3, 0)), "{shown}");
    let last = upstream.last_request().unwrap();
    assert!(last.header("session-id").is_some() && last.header("x-codex-window-id").is_some());
    assert_eq!((last.header("authorization"), last.header("openai-beta")), (None, None));
    gateway.terminate().await;

    let gateway = Process::start(binary(), &setup).await;
    succeeds(codex_over(&home, &gateway, true, &["resume", "--last", "What did it say?"])).await;
    let input = serde_json::to_string(&upstream.last_request().unwrap().input()).unwrap();
    assert!(input.contains("tool-ran-ok") && input.contains("What did it say?"), "{input}");
    assert_eq!(turns(&gateway).await.1, 0);
}

/// Only new items go upstream, until the upstream's socket is cut; then the whole chain.
#[tokio::test]
async fn codex_cli_works_over_sockets_on_both_sides_and_through_a_cut() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).account(0, "transport = \"websocket\"");
    let gateway = Process::start(binary(), &setup).await;
    let home = TempDir::new().unwrap();
    let shown = succeeds(codex_over(&home, &gateway, true, &["Please TOOLCALL now"])).await;
    assert!(tool_answer(&upstream).contains("tool-ran-ok"), "{shown}");
    let requests = upstream.requests();
    assert_eq!((requests.len(), requests[0].socket, requests[1].socket), (2, Some(0), Some(0)), "{shown}");
    assert_eq!(requests[1].input().len(), 1, "the tool's answer alone");

    upstream.script(Script::answer("a b c d e f").cut_after(6));
    let shown =
        succeeds(codex_over(&home, &gateway, true, &["resume", "--last", "Please SAY{all is well}"])).await;
    assert!(shown.contains("all is well"), "{shown}");
    let input = serde_json::to_string(&upstream.last_request().unwrap().input()).unwrap();
    assert!(input.contains("tool-ran-ok"), "{input}");
    assert_eq!(turns(&gateway).await.1, 0);
}

/// Over HTTP, the turn state is a header of the reply and of the next request.
#[tokio::test]
async fn codex_cli_returns_the_turn_state_over_a_socket() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    upstream.script(
        Script::call("exec_command", r#"{"cmd":"echo tool-ran-ok"}"#).header("x-codex-turn-state", "s-1"),
    );
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let home = TempDir::new().unwrap();
    let shown = succeeds(codex_over(&home, &gateway, true, &["Do it"])).await;
    let requests = upstream.requests();
    let states: Vec<_> = requests.iter().map(|request| request.header("x-codex-turn-state")).collect();
    assert_eq!(states, [None, Some("s-1")], "{shown}");
}

#[tokio::test]
async fn codex_cli_continues_after_a_cut_off_stream_and_a_rate_limit() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let limited =
        r#"{"error":{"message":"m","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#;
    upstream.script(Script::answer("a b c d e f").cut_after(6));
    upstream.script(Script::http(429, limited).header("retry-after", "1"));
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let home = TempDir::new().unwrap();
    let shown = succeeds(codex_over(&home, &gateway, true, &["Please SAY{all is well}"])).await;
    assert!(shown.contains("all is well"), "{shown}");
    assert_eq!((upstream.counts().requests, turns(&gateway).await.1), (3, 0), "{shown}");
}

#[tokio::test]
async fn codex_cli_falls_back_to_http_when_sockets_are_disabled() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("sockets.enabled = false");
    let gateway = Process::start(binary(), &setup).await;
    let home = TempDir::new().unwrap();
    let shown = succeeds(codex_over(&home, &gateway, true, &["Please SAY{all is well}"])).await;
    assert!(shown.contains("all is well"), "{shown}");
    assert_eq!(turns(&gateway).await, (0, 1));
}
