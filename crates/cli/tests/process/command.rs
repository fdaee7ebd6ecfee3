//! The command line: its exit codes and output, which never contains a secret.

use std::path::Path;
use std::process::{Output, Stdio};

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Postgres, Process, Setup, header};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::binary;

pub(crate) async fn antiphon(
    dir: &Path,
    args: &[&str],
    environment: &[(&str, &str)],
) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(binary())
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_failure_with_1() {
    let dir = TempDir::new().unwrap();
    assert_eq!(antiphon(dir.path(), &["frobnicate"], &[]).await.0, 2);
    assert_eq!(antiphon(dir.path(), &["serve", "--listen", "nowhere"], &[]).await.0, 2);
    let (code, _, error) = antiphon(dir.path(), &["serve"], &[]).await;
    assert!(code == 1 && error.contains("OPENAI_API_KEY"), "{error}");
    let (code, _, error) = antiphon(dir.path(), &["serve", "--config", "none.toml"], &[]).await;
    assert!(code == 1 && error.contains("none.toml"), "{error}");
}

#[tokio::test]
async fn the_same_version_is_shown_everywhere() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let (code, shown, _) = antiphon(setup.folder(), &["--version"], &[]).await;
    let version = shown.trim().strip_prefix("antiphon ").unwrap();
    assert_eq!((code, version), (0, env!("CARGO_PKG_VERSION")));
    assert_eq!(gateway.client.get("/healthz").await.ok()["version"], version);
    let line = format!("antiphon_build_info{{version=\"{version}\"}} 1");
    let metrics = gateway.client.metrics().await;
    assert!(metrics.lines().any(|have| have == line), "{metrics}");
}

#[tokio::test]
async fn an_unknown_configuration_key_is_reported_with_the_allowed_keys() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("antiphon.toml"), "[store]\nretension = \"30d\"\n").unwrap();
    let (code, _, error) = antiphon(dir.path(), &["config", "check"], &[]).await;
    assert!(code == 1 && error.contains("store.retension") && error.contains("retention"), "{error}");
}

#[tokio::test]
async fn the_configuration_is_shown_without_its_secrets() {
    let dir = TempDir::new().unwrap();
    let secret = "sk-very-secret";
    let environment = [("OPENAI_API_KEY", secret), ("ANTIPHON_LIMITS__MAX_BODY", "1MiB")];
    for args in [&["config", "show"][..], &["config", "show", "--json"], &["config", "check"]] {
        let (code, shown, error) = antiphon(dir.path(), args, &environment).await;
        assert_eq!(code, 0, "{error}");
        assert!(!shown.contains(secret) && !error.contains(secret));
    }
    let (_, shown, _) = antiphon(dir.path(), &["config", "show"], &environment).await;
    assert!(shown.contains("OPENAI_API_KEY") && shown.contains("1MiB"), "{shown}");
}

#[tokio::test]
async fn accounts_are_listed_and_tested_without_showing_secrets() {
    let keyed = |key: &str| Options { api_key: Some(key.to_owned()), ..Options::default() };
    let right = Simulator::bind(keyed("sk-right")).await.unwrap();
    let wrong = Simulator::bind(keyed("sk-other")).await.unwrap();
    let dir = TempDir::new().unwrap();
    let account = |name: &str, upstream: &Simulator| {
        format!(
            "[[accounts]]\nname = \"{name}\"\nbase_url = \"{}\"\napi_key = {{ env = \"KEY\" }}\n",
            upstream.url()
        )
    };
    let config = format!("{}{}", account("good", &right), account("bad", &wrong));
    std::fs::write(dir.path().join("antiphon.toml"), config).unwrap();
    let environment = [("KEY", "sk-right")];
    for args in [&["accounts", "list"][..], &["accounts", "list", "--json"], &["accounts", "test", "good"]] {
        let (code, shown, error) = antiphon(dir.path(), args, &environment).await;
        assert!(code == 0 && shown.contains("good"), "{error}");
        assert!(!shown.contains("sk-right"));
    }
    let (code, shown, error) = antiphon(dir.path(), &["accounts", "test", "--json"], &environment).await;
    let tried: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &tried["accounts"][0]["answers"]), (1, &json!(true)));
    let refused = tried["accounts"][1]["error"].as_str().unwrap();
    assert!(refused.starts_with("status 401: Incorrect API key provided"), "{refused}");
    assert!(!refused.contains("sk-right"), "{refused}");
    assert!(error.contains("1 of 2"), "{error}");
    let (code, shown, _) = antiphon(dir.path(), &["accounts", "show", "good"], &environment).await;
    assert!(code == 0 && shown.contains("state            ready") && !shown.contains("sk-"), "{shown}");
    for (action, told, state) in [("pause", "good: paused", "paused"), ("resume", "good: ready", "ready")] {
        let (code, shown, error) = antiphon(dir.path(), &["accounts", action, "good"], &environment).await;
        assert!(code == 0 && shown.contains(told), "{shown} {error}");
        let (_, shown, _) = antiphon(dir.path(), &["accounts", "show", "good", "--json"], &environment).await;
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["state"], state);
    }
    let (code, shown, _) = antiphon(dir.path(), &["admin", "token"], &environment).await;
    assert!(code == 0 && shown.starts_with("apn-admin-") && shown.trim().len() == 74, "{shown}");
    for args in [["accounts", "test", "none"], ["accounts", "show", "none"], ["accounts", "pause", "none"]] {
        let (code, _, error) = antiphon(dir.path(), &args, &environment).await;
        assert!(code == 1 && error.contains("account \"none\" is not configured"), "{error}");
    }
}

#[tokio::test]
async fn a_tested_account_tells_its_api_and_answers_a_question() {
    let chat_only = Options { responses: false, owned_by: "llamacpp".to_owned(), ..Options::default() };
    let (chat, responses) =
        (Simulator::bind(chat_only).await.unwrap(), Simulator::bind(Options::default()).await.unwrap());
    let dir = TempDir::new().unwrap();
    let account = |name: &str, url: &str| format!("[[accounts]]\nname = \"{name}\"\nbase_url = \"{url}\"\n");
    let config = format!("{}{}", account("local", &chat.url()), account("far", &responses.url()));
    std::fs::write(dir.path().join("antiphon.toml"), config).unwrap();
    let (code, shown, error) = antiphon(dir.path(), &["accounts", "test"], &[]).await;
    assert_eq!(code, 0, "{shown}{error}");
    assert!(
        shown.contains("ok: chat completions (llama.cpp)") && shown.contains("ok: Responses API"),
        "{shown}"
    );
    for (name, upstream) in [("local", &chat), ("far", &responses)] {
        upstream.script(antiphon_simulator::upstream::Script::answer("I am\nhere.").usage(9, 4));
        let args = ["accounts", "test", name, "--turn", "--model", "sim"];
        let (code, shown, error) = antiphon(dir.path(), &args, &[]).await;
        assert!(code == 0 && shown.contains("sim: \"I am here.\""), "{shown}{error}");
        assert!(shown.contains("9 input and 4 output tokens"), "{shown}");
    }
    let (_, shown, _) = antiphon(dir.path(), &["accounts", "list", "--json"], &[]).await;
    let listed: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        json!([listed["accounts"][0]["api"], listed["accounts"][1]["api"]]),
        json!(["chat", "responses"])
    );
    chat.script(antiphon_simulator::upstream::Script::refusal(400, "odd", "no such model"));
    let (code, shown, _) = antiphon(dir.path(), &["accounts", "test", "local", "--turn"], &[]).await;
    assert!(code == 1 && shown.contains("status 400: no such model"), "{shown}");
}

#[tokio::test]
async fn a_command_prints_the_objects_of_the_admin_api() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let dir = setup.database().parent().unwrap().to_owned();
    let run = async |args: &[&str]| {
        let (code, shown, error) = antiphon(&dir, &[&["--config", "process.toml"], args].concat(), &[]).await;
        assert_eq!(code, 0, "{args:?}: {error}");
        shown
    };
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let token = run(&["admin", "token"]).await;
    let token = header("authorization", &format!("Bearer {}", token.trim()));
    let call = async |method: Method, path: &str| {
        gateway.client.request(method, path, std::slice::from_ref(&token), "").await.ok()
    };
    let limits = r#"{"requests_per_minute": 60, "budgets": [{"cost": 2.5, "window": "month"}]}"#;
    run(&["keys", "create", "one", "--limits", limits, "--models", "gpt-*"]).await;
    run(&["keys", "create", "two", "--expires", "2090-01-31T18:00:00+01:00"]).await;
    run(&["accounts", "pause", "one"]).await;
    // A gateway applies its own changes at once.
    call(Method::POST, "/api/accounts/one/pause").await;
    for (command, path) in [
        (&["keys", "list"][..], "/api/keys"),
        (&["keys", "show", "one"], "/api/keys/one"),
        (&["accounts", "list"], "/api/accounts"),
        (&["accounts", "show", "one"], "/api/accounts/one"),
        (
            &["usage", "--from", "2026-01-01", "--to", "2090-01-01", "--group-by", "model"],
            "/api/usage?from=2026-01-01&to=2090-01-01&group_by=model",
        ),
    ] {
        let printed: Value = serde_json::from_str(&run(&[command, &["--json"]].concat()).await).unwrap();
        let mut served = call(Method::GET, path).await;
        // Only the gateway knows what the upstream has said to it.
        for quota in ["/quota", "/accounts/0/quota"] {
            if let Some(quota) = served.pointer_mut(quota) {
                *quota = json!([]);
            }
        }
        assert_eq!(printed, served, "{command:?}");
    }
    let shown = call(Method::GET, "/api/accounts/one").await;
    assert_eq!(shown["state"], "paused");
    let revoked = run(&["keys", "revoke", "two", "--json"]).await;
    let revoked: Value = serde_json::from_str(&revoked).unwrap();
    assert_eq!(revoked, call(Method::POST, "/api/keys/two/revoke").await);
    let (_, told, _) = antiphon(&dir, &["--config", "process.toml", "keys", "list", "--help"], &[]).await;
    assert!(told.contains("the JSON object of the admin API"), "{told}");
}

#[tokio::test]
async fn an_unusable_store_is_reported_clearly() {
    let dir = TempDir::new().unwrap();
    std::fs::write(
        dir.path().join("not-a.db"),
        "plain text, and long enough to be looked at as a database header",
    )
    .unwrap();
    let environment = [
        ("OPENAI_API_KEY", "k"),
        ("ANTIPHON_STORE__URL", "sqlite://not-a.db"),
        ("ANTIPHON_LISTEN", "127.0.0.1:0"),
    ];
    let serve = async |url: &str| {
        let environment = [&environment[..], &[("ANTIPHON_STORE__URL", url)]].concat();
        let (code, _, error) = antiphon(dir.path(), &["serve"], &environment).await;
        assert_eq!(code, 1, "{error}");
        error
    };
    let newer = dir.path().join("newer.db");
    let newer_url = format!("sqlite://{}", newer.display());
    let (code, _, _) = antiphon(dir.path(), &["migrate"], &[("ANTIPHON_STORE__URL", &newer_url)]).await;
    assert_eq!(code, 0);
    let server = Postgres::shared_database().await;
    let (address, name) = server.rsplit_once('/').unwrap();
    for (url, says, advice) in [
        ("sqlite://not-a.db", "not-a.db is not an SQLite database", "use another path"),
        ("sqlite://.", "is a directory", "antiphon.db"),
        ("sqlite:///proc/none/a.db", "the directory /proc/none can't be created", "use another path"),
        (
            "sqlite:///proc/a.db",
            "the lock of /proc/a.db can't be taken",
            "access to that file and to its directory",
        ),
        (&format!("{address}/no_such_{name}"), "the server has no database", "correct the URL"),
        ("sqlite://../a.db", "can't contain", "write the resolved path"),
    ] {
        let error = serve(url).await;
        assert_eq!(error.matches(says).count(), 1, "{error}");
        assert!(error.contains(advice), "{error}");
    }
}

#[tokio::test]
async fn logs_have_one_line_per_turn_without_payloads_or_secrets() {
    let upstream =
        Simulator::bind(Options { api_key: Some("sk-secret-value".to_owned()), ..Options::default() })
            .await
            .unwrap();
    let setup = Setup::over(&upstream).config("log.format = \"json\"\nlog.filter = \"trace\"");
    let setup = setup.account_key("sk-secret-value");
    let gateway = Process::start(binary(), &setup).await;
    upstream.script(Script::answer("private-answer"));
    let body = json!({"model": "sim", "input": "private-question"});
    let id = gateway.client.create(body).await.ok_id();
    let (lines, success) = gateway.terminate().await;
    assert!(success, "SIGTERM has to end it with success: {lines:?}");
    let turns: Vec<serde_json::Value> = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["target"] == "antiphon::turn")
        .collect();
    assert_eq!(turns.len(), 1, "{lines:#?}");
    assert_eq!(turns[0]["response.id"], *id);
    assert_eq!(turns[0]["turn.outcome"], "completed");
    assert_eq!(turns[0]["account.id"], "one");
    for private in ["private-question", "private-answer", "sk-secret-value"] {
        assert!(lines.iter().all(|line| !line.contains(private)), "{private} is in the log");
    }
}

#[tokio::test]
async fn the_demos_three_commands_work() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let dir = TempDir::new().unwrap();
    let mut demo = Command::new(binary())
        .args(["demo", "--listen", "127.0.0.1:0"])
        .env("HOME", dir.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut script = String::from("set -e\n");
    loop {
        let line = lines.next_line().await.unwrap().expect("the guide ends with the third command");
        if line.starts_with("  ") {
            script.push_str(&line);
            script.push('\n');
        }
        if line.ends_with("/responses/$ID") {
            break;
        }
    }
    let output = Command::new("bash").arg("-c").arg(&script).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{script}\n{text}");
    assert!(text.contains("My name is Ada.") && text.contains("Hello from the simulator."), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_migrated_manually_and_store_stats_are_shown() {
    let dir = TempDir::new().unwrap();
    let in_file = format!("sqlite://{}", dir.path().join("a.db").display());
    for url in [in_file, Postgres::shared_database().await] {
        let environment = [("ANTIPHON_STORE__URL", url.as_str()), ("ANTIPHON_STORE__MIGRATE", "manual")];
        let run = async |args: &[&str]| antiphon(dir.path(), args, &environment).await;
        let (code, shown, error) = run(&["migrate", "--check"]).await;
        assert!(code == 1 && shown.contains("pending 0008_checksums"), "{shown} {error}");
        let (code, _, error) = run(&["store", "stats"]).await;
        assert!(code == 1 && error.contains("antiphon migrate"), "{error}");
        let (code, _, error) = antiphon(
            dir.path(),
            &["serve", "--listen", "127.0.0.1:0"],
            &[&environment[..], &[("OPENAI_API_KEY", "sk-x")]].concat(),
        )
        .await;
        assert!(code == 1 && error.contains("antiphon migrate"), "{error}");
        let (code, shown, error) = run(&["migrate", "--json"]).await;
        assert!(code == 0 && shown.contains("0001_responses"), "{shown} {error}");
        let (code, shown, _) = run(&["migrate", "--check"]).await;
        assert!(code == 0 && shown.contains("up to date"), "{shown}");
        let (code, shown, error) = run(&["store", "stats", "--json"]).await;
        assert!(code == 0 && shown.trim() == r#"{"projects":[]}"#, "{shown} {error}");
        let upstream = Simulator::bind(Options::default()).await.unwrap();
        let gateway = Setup::over(&upstream).database_url(&url).start().await;
        gateway.client.created(json!({"model": "sim", "input": "count me"})).await;
        let (code, shown, error) = run(&["store", "stats"]).await;
        assert!(code == 0 && shown.contains("default"), "{shown} {error}");
        gateway.stop().await;
    }
}
