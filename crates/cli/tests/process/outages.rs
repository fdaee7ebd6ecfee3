//! A store that does not do all that it should: what the log says, and what goes on.

use std::process::Stdio;

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Postgres, Process, Setup, eventually};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::binary;
use crate::command::antiphon;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_read_is_logged_once_and_again_when_it_can() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let url = Postgres::shared_database().await;
    let execute = async |sql: String| Postgres::shared().execute(url.rsplit('/').next().unwrap(), &sql).await;
    let setup = Setup::over(&upstream).database_url(&url);
    let gateway = Process::start(binary(), &setup).await;
    for (table, failing, working) in [
        ("changes", "keys can't be read", "keys can be read again"),
        ("accounts", "account state can't be shared", "account state can be shared again"),
    ] {
        for times in 1..=2 {
            execute(format!("ALTER TABLE {table} RENAME TO away")).await;
            eventually(failing, async || gateway.times_logged(failing) == times).await;
            assert!(gateway.has_logged(&format!("relation \\\"{table}\\\" does not exist")));
            execute(format!("ALTER TABLE away RENAME TO {table}")).await;
            eventually(working, async || gateway.times_logged(working) == times).await;
        }
    }
    let (lines, _) = gateway.terminate().await;
    let failed = lines.iter().filter(|line| line.contains("can't be") && line.contains("WARN")).count();
    assert!(failed >= 4, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_background_turn_that_waits_for_the_store_is_logged_once() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let url = Postgres::shared_database().await;
    let execute = async |sql: &str| Postgres::shared().execute(url.rsplit('/').next().unwrap(), sql).await;
    let setup = Setup::over(&upstream).database_url(&url).config("log.filter = \"antiphon_gateway=debug\"");
    let gateway = Process::start(binary(), &setup).await;
    let (script, gate) = Script::answer("a b c").gated_after(3);
    upstream.script(script);
    let turn = gateway.client.created(json!({"model": "sim", "input": "x", "background": true})).await;
    eventually("it runs", async || upstream.counts().requests == 1).await;
    execute("ALTER TABLE background_turns RENAME TO away").await;
    gate.open();
    eventually("it can't be recorded", async || gateway.has_logged("background turn cannot be recorded"))
        .await;
    // As often as the end of the turn is tried again.
    let tries = || gateway.times_logged("cancellations could not be read");
    let before = tries();
    eventually("more tries", async || tries() >= before + 4).await;
    execute("ALTER TABLE away RENAME TO background_turns").await;
    eventually("it is recorded", async || gateway.has_logged("background turn could be recorded after all"))
        .await;
    let path = format!("/v1/responses/{}", turn["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.ok()["status"], "completed");
    assert_eq!(gateway.times_logged("background turn cannot be recorded"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_file_sizes_is_like_a_full_disk() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let status = async || gateway.client.create(json!({"model": "sim", "input": "x"})).await.status.as_u16();
    assert_eq!(status().await, 200);
    gateway.limit_files(Some(4096));
    assert_eq!(status().await, 503);
    gateway.limit_files(None);
    eventually("it recovers", async || status().await == 200).await;
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_is_no_matter_of_its_schema() {
    let dir = TempDir::new().unwrap();
    let environment = [("ANTIPHON_STORE__URL", "sqlite://a.db")];
    assert_eq!(antiphon(dir.path(), &["migrate"], &environment).await.0, 0);
    // SQLite can't open its log then, as on a file system that is read-only.
    std::fs::create_dir(dir.path().join("a.db-wal")).unwrap();
    let (code, _, error) = antiphon(dir.path(), &["migrate", "--check"], &environment).await;
    assert!(code == 1 && error.contains("can't be opened") && !error.contains("schema"), "{error}");
}

#[tokio::test]
async fn a_first_configuration_that_cannot_be_written_leaves_no_file() {
    let dir = TempDir::new().unwrap();
    let init = ["config", "init", "--upstream", "openai", "--store", "a.db"];
    let full = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
        .arg(binary())
        .args(init)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let error = String::from_utf8(full.stderr).unwrap();
    assert!(!full.status.success() && error.contains("cannot write antiphon.toml"), "{error}");
    let (code, _, error) = antiphon(dir.path(), &init, &[]).await;
    assert_eq!(code, 0, "{error}");
}
