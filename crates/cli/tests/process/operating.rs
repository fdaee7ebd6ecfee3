//! Commands of operators: what they need, what they create, and what they leave alone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Postgres, Process, Setup};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binary;
use crate::command::antiphon;

const ACCOUNT: &str =
    "[[accounts]]\nname = \"one\"\nbase_url = \"http://127.0.0.1:1\"\napi_key = { env = \"UNSET_KEY\" }\n";

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn only_commands_that_call_upstreams_need_their_secrets() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("antiphon.toml"), ACCOUNT).unwrap();
    for args in [
        &["config", "show"][..],
        &["accounts", "list"],
        &["migrate"],
        &["keys", "create", "laptop"],
        &["keys", "list"],
        &["accounts", "list", "--json"],
        &["accounts", "show", "one"],
        &["accounts", "pause", "one", "--json"],
        &["accounts", "resume", "one"],
        &["usage"],
        &["store", "stats"],
        &["store", "check"],
        &["admin", "token", "--json"],
        &["audit"],
    ] {
        let (code, _, error) = antiphon(dir.path(), args, &[]).await;
        assert_eq!(code, 0, "{args:?}: {error}");
    }
    let (_, shown, told) = antiphon(dir.path(), &["accounts", "show", "one"], &[]).await;
    assert!(shown.contains("UNSET_KEY") && told.contains("one: its secret is not set here"), "{shown}{told}");
    for args in [&["serve"][..], &["accounts", "test"], &["config", "check"]] {
        let (code, _, error) = antiphon(dir.path(), args, &[]).await;
        assert!(
            code == 1 && error.contains("environment variable UNSET_KEY is not set"),
            "{args:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_first_configuration_file_is_written_once_and_loads() {
    let dir = TempDir::new().unwrap();
    let init = ["config", "init", "--upstream", "openai", "--store", "data/a.db"];
    let (code, shown, error) = antiphon(dir.path(), &init, &[]).await;
    assert!(code == 0 && shown.contains("export OPENAI_API_KEY="), "{shown}{error}");
    let file = dir.path().join("antiphon.toml");
    assert_eq!(mode(&file), 0o600);
    let environment = [("OPENAI_API_KEY", "k")];
    let (code, shown, error) = antiphon(dir.path(), &["config", "check", "--json"], &environment).await;
    assert!(code == 0 && error.is_empty(), "{error}");
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["accounts"], json!(["openai"]));
    let written = std::fs::read(&file).unwrap();
    let (code, _, error) = antiphon(dir.path(), &init, &[]).await;
    assert!(code == 1 && error.contains("--force"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), written);
    let local = ["config", "init", "--upstream", "http://127.0.0.1:8000/v1", "--force", "--json"];
    let (code, shown, error) = antiphon(dir.path(), &local, &[]).await;
    assert_eq!((code, shown.contains("antiphon.toml")), (0, true), "{error}");
    assert_eq!(antiphon(dir.path(), &["config", "check"], &[]).await.0, 0);
    for (args, told) in [
        (&["config", "init", "--force"][..], "give --upstream"),
        (&["config", "init", "--force", "--upstream", "api.example/v1"], "write \"https://api.example/v1\""),
        (
            &["config", "init", "--force", "--upstream", "openai", "--api-key-env", "sk-secret"],
            "not the key itself",
        ),
        (
            &["config", "init", "--force", "--upstream", "ollama", "--store", "~/a.db"],
            "write out the home directory",
        ),
        (&["config", "init", "--force", "--upstream", "ollama", "--store", "mysql://x"], "--store: "),
    ] {
        let (code, _, error) = antiphon(dir.path(), args, &[]).await;
        assert!(code == 2 && error.contains(told) && !error.contains("sk-secret"), "{args:?}: {error}");
        assert!(!error.contains("antiphon.toml"), "no file was written: {error}");
    }
    let variable = [("ANTIPHON_LISTEN", "nowhere")];
    let (code, _, error) = antiphon(dir.path(), &local, &variable).await;
    assert!(code == 1 && error.contains("ANTIPHON_LISTEN"), "{error}");
}

#[tokio::test]
async fn the_steps_after_writing_a_configuration_name_the_file_that_was_written() {
    let dir = TempDir::new().unwrap();
    for (output, variable, command) in [
        ("antiphon.toml", None, "antiphon serve\n"),
        ("./antiphon.toml", None, "antiphon serve\n"),
        ("other.toml", None, "antiphon serve --config other.toml\n"),
        ("other.toml", Some("other.toml"), "antiphon serve\n"),
        ("antiphon.toml", Some("other.toml"), "antiphon serve --config antiphon.toml\n"),
    ] {
        let init = ["config", "init", "--upstream", "ollama", "--force", "--output", output];
        let environment: Vec<_> = variable.map(|file| ("ANTIPHON_CONFIG", file)).into_iter().collect();
        let (code, shown, error) = antiphon(dir.path(), &init, &environment).await;
        assert!(code == 0 && shown.ends_with(command), "{output}, {variable:?}: {shown}{error}");
    }
}

#[tokio::test]
async fn every_command_has_an_example_in_its_help() {
    let dir = TempDir::new().unwrap();
    for command in
        ["", "store", "store stats", "accounts", "keys", "admin", "config", "config init", "usage", "demo"]
    {
        let args: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let (code, shown, _) = antiphon(dir.path(), &args, &[]).await;
        assert!(code == 0 && shown.contains("Example:\n"), "{command}: {shown}");
        assert!(shown.contains("ANTIPHON_CONFIG"), "{command}: {shown}");
    }
}

#[tokio::test]
async fn a_range_that_ends_before_it_begins_and_a_database_of_no_kind_are_wrong_usage() {
    let dir = TempDir::new().unwrap();
    assert_eq!(antiphon(dir.path(), &["migrate"], &[]).await.0, 0);
    for (args, told) in [
        (&["audit", "--from", "2026-11-30", "--to", "2026-11-01"][..], "before 'to'"),
        (&["usage", "--from", "2026-11-30", "--to", "2026-11-01"], "before 'to'"),
        (&["store", "copy", "--from", "mysql://x", "--to", "sqlite://b.db"], "--from: "),
        (&["store", "copy", "--from", "sqlite://a.db", "--to", "nowhere"], "--to: "),
    ] {
        let (code, _, error) = antiphon(dir.path(), args, &[]).await;
        assert!(code == 2 && error.contains(told), "{args:?}: {error}");
    }
}

#[tokio::test]
async fn a_command_that_reads_creates_no_database() {
    let dir = TempDir::new().unwrap();
    let environment = [("ANTIPHON_STORE__URL", "sqlite://data/a.db"), ("OPENAI_API_KEY", "k")];
    for args in [
        &["keys", "list"][..],
        &["keys", "show", "one"],
        &["keys", "revoke", "one"],
        &["usage"],
        &["audit"],
        &["store", "stats"],
        &["store", "check"],
        &["store", "backup", "b.db"],
    ] {
        let (code, _, error) = antiphon(dir.path(), args, &environment).await;
        assert!(code == 1 && error.contains("data/a.db"), "{args:?}: {error}");
    }
    let (_, _, error) = antiphon(dir.path(), &["keys", "list"], &environment).await;
    assert!(error.contains("antiphon migrate"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_database_is_for_its_owner_alone() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let dir = TempDir::new().unwrap();
    let database = dir.path().join("made/for/it/a.db");
    let setup = Setup::over(&upstream).database_url(&format!("sqlite://{}", database.display()));
    let gateway = Process::start(binary(), &setup).await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    for directory in ["made", "made/for", "made/for/it"] {
        assert_eq!(mode(&dir.path().join(directory)), 0o700, "{directory}");
    }
    let names: Vec<_> = std::fs::read_dir(database.parent().unwrap()).unwrap().map(Result::unwrap).collect();
    assert!(names.len() >= 4, "{names:?}");
    for file in names {
        assert_eq!(mode(&file.path()), 0o600, "{file:?}");
    }

    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o755)).unwrap();
    let environment = [("ANTIPHON_STORE__URL", "sqlite://shared/a.db")];
    assert_eq!(antiphon(dir.path(), &["migrate"], &environment).await.0, 0);
    assert_eq!((mode(&shared), mode(&shared.join("a.db"))), (0o755, 0o600));
}

#[tokio::test]
async fn the_audit_log_is_searched_by_time_actor_action_and_target() {
    let dir = TempDir::new().unwrap();
    let run = async |args: &[&str]| antiphon(dir.path(), args, &[]).await;
    for args in [
        &["keys", "create", "one"][..],
        &["keys", "create", "two"],
        &["keys", "revoke", "one"],
        &["admin", "token"],
    ] {
        assert_eq!(run(args).await.0, 0);
    }
    let found = async |args: &[&str]| {
        let (code, shown, error) = run(&[&["audit", "--json"], args].concat()).await;
        assert_eq!(code, 0, "{error}");
        serde_json::from_str::<Value>(&shown).unwrap()
    };
    let actions = async |args: &[&str]| {
        let list = found(args).await;
        let entries = list["entries"].as_array().unwrap().iter();
        entries.map(|entry| entry["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = actions(&[]).await;
    assert_eq!((all.len(), all[1].as_str(), all[3].as_str()), (4, "key.revoked", "key.created"));
    assert_eq!(actions(&["--action", "key"]).await.len(), 3);
    assert_eq!(actions(&["--action", "key.created"]).await.len(), 2);
    assert!(actions(&["--action", "ke"]).await.is_empty());
    assert_eq!(actions(&["--target", "one"]).await, ["key.revoked", "key.created"]);
    assert_eq!(actions(&["--actor", "command_line"]).await.len(), 4);
    assert!(actions(&["--actor", "gateway"]).await.is_empty());
    assert_eq!(actions(&["--from", "2020-01-01", "--to", "2999-01-01T00:00:00Z"]).await.len(), 4);
    assert!(actions(&["--to", "2020-01-01"]).await.is_empty());
    assert!(actions(&["--from", "2999-01-01"]).await.is_empty());
    let newest = found(&["--limit", "1"]).await;
    assert_eq!((newest["entries"].as_array().unwrap().len(), &newest["has_more"]), (1, &json!(true)));
    let revoked = found(&["--action", "key.revoked"]).await["entries"][0]["at"].as_str().unwrap().to_owned();
    assert!(!actions(&["--to", &revoked]).await.contains(&"key.revoked".to_owned()), "the end is exclusive");
    assert!(actions(&["--from", &revoked]).await.contains(&"key.revoked".to_owned()));
    let (code, shown, _) = run(&["audit", "--action", "key.revoked"]).await;
    assert!(code == 0 && shown.contains("command_line") && shown.contains("key.revoked"), "{shown}");
    assert_eq!(run(&["audit", "--limit", "0"]).await.0, 2);
    let (code, _, error) = run(&["audit", "--from", "yesterday"]).await;
    assert!(code == 2 && error.contains("expected an RFC 3339 time"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_gateway_continues_its_chains() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let server = Postgres::shared_database().await;
    for setup in [Setup::over(&upstream), Setup::over(&upstream).database_url(&server)] {
        let directory = setup.database().parent().unwrap().to_owned();
        let gateway = Process::start(binary(), &setup).await;
        let turn =
            |parent: &Value| json!({"model": "sim", "input": "x", "previous_response_id": parent["id"]});
        let first = gateway.client.created(turn(&Value::Null)).await;
        let backup = ["--config", "process.toml", "store", "backup", "copy.db"];
        let (code, shown, error) = antiphon(&directory, &[&backup[..], &["--json"]].concat(), &[]).await;
        assert_eq!(code, 0, "{error}");
        let report: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((&report["file"], &report["responses"]), (&json!("copy.db"), &json!(1)));
        gateway.client.created(turn(&first)).await;
        gateway.terminate().await;

        let file = directory.join("copy.db");
        assert_eq!(mode(&file), 0o600);
        let before = std::fs::read(&file).unwrap();
        let (code, _, error) = antiphon(&directory, &backup, &[]).await;
        assert!(code == 1 && error.contains("copy.db exists"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), before, "it is left alone");
        let leftovers = std::fs::read_dir(&directory).unwrap().map(Result::unwrap);
        let is_draft = |name: &str| name.starts_with(".antiphon-backup") || name.starts_with("copy.db-");
        assert!(leftovers.map(|file| file.file_name()).all(|name| !is_draft(&name.to_string_lossy())));

        let restored = setup.clone().database_url(&format!("sqlite://{}", file.display()));
        let gateway = Process::start(binary(), &restored).await;
        gateway.client.created(turn(&first)).await;
        let id = first["id"].as_str().unwrap();
        assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.ok(), first);
    }
}
