//! Keys on the command line, and a running gateway that picks them up.

use std::process::Stdio;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Process, Setup, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::binary;
use crate::command::antiphon;

const LIMITS: &str = r#"{"concurrent_turns":7}"#;

#[tokio::test]
async fn keys_are_created_listed_rotated_revoked_and_deleted() {
    let dir = TempDir::new().unwrap();
    let run = async |args: &[&str]| antiphon(dir.path(), &[&["keys"], args].concat(), &[]).await;
    let create = ["create", "laptop", "--models", "gpt-*,sim", "--expires", "2090-03-29T02:30:00+05:45"];
    let (code, secret, error) =
        run(&[&create[..], &["--limits", r#"{"concurrent_turns": 1}"#]].concat()).await;
    assert_eq!(code, 0, "{error}");
    let secret = secret.trim();
    assert!(
        secret.starts_with("apn-") && secret.len() == 68,
        "the secret alone is on standard output: {secret}"
    );
    assert!(error.contains("shown only once") && !error.contains(secret), "{error}");
    let (code, listed, _) = run(&["list"]).await;
    assert!(code == 0 && listed.contains("laptop") && listed.contains(&secret[..12]), "{listed}");
    let (_, shown, _) = run(&["show", "laptop"]).await;
    assert!(
        shown.contains("expires          2090-03-28T20:45:00Z") && shown.contains("gpt-*, sim"),
        "{shown}"
    );
    let json = async |args: &[&str]| {
        let (code, shown, error) = run(&[args, &["--json"]].concat()).await;
        assert_eq!(code, 0, "{error}");
        serde_json::from_str::<Value>(&shown).unwrap()
    };
    let key = json(&["show", "laptop"]).await;
    assert_eq!((&key["state"], &key["limits"]), (&json!("active"), &json!({"concurrent_turns": 1})));
    assert_eq!(json(&["list"]).await, json!({"keys": [key], "has_more": false}));
    let rotated = json(&["rotate", "laptop", "--overlap", "1h"]).await;
    assert!(rotated["secret"] != secret && rotated["previous_secret_until"].is_string(), "{rotated}");
    assert_eq!(json(&["revoke", "laptop"]).await["state"], "revoked");
    for shown in [listed, shown, json(&["list"]).await.to_string()] {
        assert!(!shown.contains(&secret[12..]));
    }
    let (code, _, error) = run(&["rotate", "laptop"]).await;
    assert!(code == 1 && error.contains("key \"laptop\" is revoked"), "{error}");
    assert_eq!(json(&["delete", "laptop"]).await["deleted"], true);
    let (code, second, _) = run(&["create", "laptop", "--project", "default", "--json"]).await;
    let second: Value = serde_json::from_str(&second).unwrap();
    assert_eq!((code, &second["project"]), (0, &json!("default")));
    let (_, told, _) = run(&["delete", "laptop"]).await;
    assert_eq!(told.trim(), "laptop: deleted");
}

#[tokio::test]
async fn the_limits_of_a_key_are_replaced_and_a_running_gateway_applies_them() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let dir = setup.database().parent().unwrap().to_owned();
    let run = async |args: &[&str]| {
        antiphon(&dir, &[&["--config", "process.toml", "keys"], args].concat(), &[]).await
    };
    let (code, secret, error) = run(&["create", "one", "--limits", r#"{"concurrent_turns": 7}"#]).await;
    assert_eq!(code, 0, "{error}");
    let (code, shown, error) = run(&["limits", "one", r#"{"requests_per_minute": 1}"#, "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let key: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(key["limits"], json!({"requests_per_minute": 1}), "all earlier ones are replaced");
    let client = gateway.client.with_secret(secret.trim());
    let status = async || client.create(json!({"model": "sim", "input": "x"})).await.status.as_u16();
    eventually("the limit applies", async || status().await == 429).await;
    let (code, shown, _) = run(&["limits", "one", "{}"]).await;
    assert!(code == 0 && shown.contains("limits           {}"), "{shown}");
    eventually("there is no limit", async || [status().await, status().await, status().await] == [200; 3])
        .await;
    run(&["revoke", "one"]).await;
    let (code, _, error) = run(&["limits", "one", "{}"]).await;
    assert!(code == 1 && error.contains("key \"one\" is revoked"), "{error}");
}

#[tokio::test]
async fn failure_exits_with_1_and_wrong_usage_with_2() {
    let dir = TempDir::new().unwrap();
    let run = async |args: &[&str]| antiphon(dir.path(), &[&["keys"], args].concat(), &[]).await;
    for args in
        [&["create"][..], &["show"], &["rotate", "x", "--overlap", "soon"], &["frobnicate"], &["list", "x"]]
    {
        assert_eq!(run(args).await.0, 2, "{args:?}");
    }
    let far = "2999-01-01T00:00:00Z";
    assert_eq!(run(&["create", "one", "--expires", far, "--limits", LIMITS]).await.0, 0);
    for (args, told) in [
        (&["create", "one"][..], "a key named \"one\" already exists"),
        (&["limits", "two", "{}"], "key \"two\" not found"),
        (&["show", "two"], "key \"two\" not found"),
        (&["revoke", "two"], "key \"two\" not found"),
        (&["delete", "two"], "key \"two\" not found"),
    ] {
        let (code, _, error) = run(args).await;
        assert!(code == 1 && error.contains(told), "{args:?}: {error}");
    }
    for (args, told) in [
        (&["create", "a b"][..], "expected 1 to 64 characters of A-Z a-z 0-9 _ . -"),
        (&["create", "new"], "\"new\" is reserved, choose another name"),
        (&["create", ".."], "\"..\" is reserved, choose another name"),
        (&["create", "two", "--expires", "2020-01-01T00:00:00Z"], "is in the past"),
        (
            &["create", "two", "--expires", "2999-01-01T00:00:00"],
            "expected an RFC 3339 time with a time zone",
        ),
        (&["create", "two", "--models", "gpt-{4,5}"], "is not a valid pattern"),
        (&["create", "two", "--models", ""], "is not a valid pattern"),
        (&["create", "two", "--project", ""], "expected 1 to 64 characters of A-Z a-z 0-9 _ . -"),
        (&["create", "two", "--limits", "7"], "'--limits': expected a JSON object"),
        (&["create", "two", "--limits", ""], "'--limits': expected a JSON object"),
        (&["create", "two", "--limits", "{"], "--limits is not a JSON object"),
        (&["create", "two", "--limits", r#"{"rpm": 1}"#], "unknown field `rpm`"),
        (&["limits", "one", "{} {}"], "LIMITS is not a JSON object"),
        (&["limits", "one", ""], "'LIMITS': expected a JSON object; {} stands for no limits"),
        (&["limits", "one", " "], "'LIMITS': expected a JSON object"),
        (&["limits", "one", "null"], "'LIMITS': expected a JSON object"),
        (&["limits", "one", r#"{"rpm": 1}"#], "unknown field `rpm`"),
        (&["rotate", "one", "--overlap", "31d"], "at most 30 days"),
    ] {
        let (code, _, error) = run(args).await;
        assert!(code == 2 && error.contains(told), "{args:?}: {error}");
    }
    let (_, shown, _) = run(&["list"]).await;
    assert_eq!(shown.lines().count(), 2, "{shown}");
    let (_, shown, _) = run(&["show", "one"]).await;
    assert!(shown.contains(&format!("limits           {LIMITS}")), "{shown}");
    for command in ["create", "list", "show", "rotate", "limits", "revoke", "delete"] {
        let (code, help, _) = run(&[command, "--help"]).await;
        assert!(code == 0 && help.contains(&format!("Example:\n  antiphon keys {command}")), "{help}");
    }
}

#[tokio::test]
async fn a_running_gateway_picks_up_keys_and_logs_ids_but_no_secrets() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("log.format = \"json\"\nlog.filter = \"trace\"");
    let gateway = Process::start(binary(), &setup).await;
    let dir = setup.database().parent().unwrap().to_owned();
    let run = async |args: &[&str]| {
        let (code, shown, error) =
            antiphon(&dir, &[&["--config", "process.toml", "keys"], args].concat(), &[]).await;
        assert_eq!(code, 0, "{error}");
        shown.trim().to_owned()
    };
    let body = json!({"model": "sim", "input": "x"});
    let until = async |secret: &str, status: u16| {
        let client = gateway.client.with_secret(secret);
        let what = format!("status {status}");
        eventually(&what, async || client.get("/v1/models").await.status == status).await;
    };
    gateway.client.created(&body).await;
    let secret = run(&["create", "one"]).await;
    until("none", 401).await;
    gateway.client.with_secret(&secret).created(&body).await;
    let wrong = secret.replace(&secret[60..], "00000000");
    assert_eq!(gateway.client.with_secret(&wrong).create(&body).await.status, 401);
    let wrong_admin = format!("apn-admin-{}", "57".repeat(32));
    assert_eq!(gateway.client.with_secret(&wrong_admin).get("/api/keys").await.status, 401);
    let shown: Value = serde_json::from_str(&run(&["show", "one", "--json"]).await).unwrap();
    run(&["revoke", "one"]).await;
    until(&secret, 401).await;
    let (lines, success) = gateway.terminate().await;
    assert!(success);
    let turns = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let turns: Vec<Value> = turns.filter(|line| line["target"] == "antiphon::turn").collect();
    assert_eq!(turns.len(), 2, "{lines:#?}");
    assert_eq!((&turns[0]["key.id"], &turns[1]["key.id"]), (&Value::Null, &shown["id"]));
    assert_eq!(turns[1]["project.id"], shown["project"]);
    for kind in ["key", "admin token"] {
        let told = format!("authentication failed: no valid {kind}");
        assert!(lines.iter().any(|line| line.contains(&told) && line.contains("127.0.0.1")), "{told}");
    }
    for secret in [&secret[12..], &wrong[12..], &wrong_admin[12..]] {
        assert!(lines.iter().all(|line| !line.contains(secret)), "a secret is in the log");
    }
}

#[tokio::test]
async fn listening_beyond_loopback_requires_a_key() {
    let dir = TempDir::new().unwrap();
    let environment = [("OPENAI_API_KEY", "k"), ("ANTIPHON_LISTEN", "0.0.0.0:0")];
    let refused = async |environment: &[(&str, &str)]| {
        let (code, _, error) = antiphon(dir.path(), &["serve"], environment).await;
        assert!(
            code == 1 && error.contains("antiphon keys create") && error.contains("auth = \"none\""),
            "{error}"
        );
        error
    };
    assert!(refused(&environment).await.contains("refusing to listen on 0.0.0.0:0 without a key"));
    let admin =
        [("OPENAI_API_KEY", "k"), ("ANTIPHON_LISTEN", "127.0.0.1:0"), ("ANTIPHON_ADMIN_LISTEN", "[::]:0")];
    assert!(refused(&admin).await.contains("[::]:0"));
    let serves = async |environment: &[(&str, &str)]| {
        let mut serving = Command::new(binary())
            .arg("serve")
            .current_dir(dir.path())
            .env_clear()
            .env("HOME", dir.path())
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(serving.stderr.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        assert!(first.contains("listening on http://"), "{first}");
    };
    serves(&[&environment[..], &[("ANTIPHON_AUTH", "none")]].concat()).await;
    assert_eq!(antiphon(dir.path(), &["keys", "create", "one"], &[]).await.0, 0);
    serves(&environment).await;
    antiphon(dir.path(), &["keys", "revoke", "one"], &[]).await;
    serves(&environment).await;
    antiphon(dir.path(), &["keys", "delete", "one"], &[]).await;
    refused(&environment).await;
}
