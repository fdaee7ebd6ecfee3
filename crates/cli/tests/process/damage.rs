//! A damaged response: what its clients get, what the log says, and how `antiphon store check` finds it.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Postgres, Process, Setup, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::background::ended;
use crate::binary;
use crate::command::antiphon;

/// `antiphon store check --json`: its exit code, what it reports, and standard error.
async fn check(url: &str) -> (i32, Value, String) {
    let directory = TempDir::new().unwrap();
    let (code, shown, error) =
        antiphon(directory.path(), &["store", "check", "--json"], &[("ANTIPHON_STORE__URL", url)]).await;
    (code, serde_json::from_str(&shown).unwrap_or_default(), error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_response_fails_who_continues_it_and_nobody_else() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let url = Postgres::shared_database().await;
    let setup = Setup::over(&upstream).database_url(&url).config("store.cache = 0");
    let gateway = Process::start(binary(), &setup).await;
    let turn = |parent: &Value| json!({"model": "sim", "input": "private", "previous_response_id": parent});
    let root = gateway.client.created(turn(&Value::Null)).await["id"].clone();
    let damaged = gateway.client.created(turn(&root)).await["id"].clone();
    let other = gateway.client.created(turn(&root)).await["id"].clone();
    let (code, report, error) = check(&url).await;
    assert_eq!((code, &report["intact"], &report["responses"]), (0, &json!(true), &json!(3)), "{error}");

    let id = damaged.as_str().unwrap();
    let uuid = id.strip_prefix("resp_").unwrap();
    let change = format!("UPDATE responses SET output = '[]' WHERE id = '{uuid}'");
    Postgres::shared().execute(url.rsplit('/').next().unwrap(), &change).await;
    let asked = upstream.counts().requests;
    let refused = gateway.client.create(turn(&damaged)).await;
    assert_eq!(refused.refusal(), (500, Some("store_damaged".to_owned()), None));
    let read = gateway.client.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(read.refusal(), (500, Some("store_damaged".to_owned()), None));
    assert_eq!(upstream.counts().requests, asked, "nothing went upstream");
    gateway.client.created(turn(&other)).await;
    gateway.client.created(turn(&root)).await;
    let metrics = gateway.client.metrics().await;
    assert!(
        metrics.contains(r#"antiphon_failures_total{fault="store",code="store_damaged"} 1"#),
        "{metrics}"
    );

    let (code, report, error) = check(&url).await;
    assert_eq!((code, &report["intact"], &report["damages"]), (1, &json!(false), &json!(2)), "{report}");
    let checksum = "the checksum of its items is wrong";
    assert_eq!(report["damaged"][0], json!({"project": "default", "response": id, "problem": checksum}));
    assert!(error.contains("is damaged in 2 place(s)") && !error.contains('@'), "{error}");
    let (lines, _) = gateway.terminate().await;
    let named = |line: &&String| line.contains("ERROR") && line.contains(id);
    assert!(lines.iter().any(|line| named(&line)), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains("private")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_background_turn_whose_request_is_damaged_fails_instead_of_running_another() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let url = Postgres::shared_database().await;
    let setup = Setup::over(&upstream).database_url(&url).config("background.max_running = 1");
    let gateway = Process::start(binary(), &setup).await;
    let queue = async |input: &str| {
        let body = json!({"model": "sim", "input": input, "background": true});
        gateway.client.created(body).await["id"].as_str().unwrap().to_owned()
    };
    let first = queue("first").await;
    gate.arrived(1).await;
    let damaged = queue("keep the file").await;
    let change = format!(
        "UPDATE background_turns SET request = convert_to(replace(convert_from(request, 'UTF8'), 'keep', 'drop'), 'UTF8') \
         WHERE id = '{}'",
        damaged.strip_prefix("resp_").unwrap()
    );
    let database = url.rsplit('/').next().unwrap();
    Postgres::shared().execute(database, &change).await;
    let (code, report, error) = check(&url).await;
    assert_eq!((code, &report["damages"]), (1, &json!(1)), "{report} {error}");
    let problem = "its request as a background turn is damaged";
    assert_eq!(report["damaged"][0], json!({"project": "default", "response": damaged, "problem": problem}));
    let emptied = queue("x").await;
    let change = "UPDATE background_turns SET response = '' WHERE status = 4";
    Postgres::shared().execute(database, change).await;
    let read = gateway.client.get(&format!("/v1/responses/{emptied}")).await;
    assert_eq!(read.refusal(), (500, Some("store_damaged".to_owned()), None));
    gate.open();
    assert_eq!(ended(&gateway.client, &first).await["status"], "completed");
    let path = format!("/v1/responses/{emptied}");
    eventually("it has ended", async || gateway.client.get(&path).await.status == 200).await;
    assert_eq!(gateway.client.get(&path).await.ok()["status"], "failed");
    let failed = ended(&gateway.client, &damaged).await;
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("store_damaged")));
    assert_eq!(upstream.counts().requests, 1, "it did not go upstream");
    let (lines, _) = gateway.terminate().await;
    assert!(lines.iter().any(|line| line.contains("ERROR") && line.contains(&damaged)), "{lines:#?}");
}

#[tokio::test]
async fn a_file_is_checked_beside_its_gateway() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let directory = setup.database().parent().unwrap().to_owned();
    let (code, shown, error) =
        antiphon(&directory, &["--config", "process.toml", "store", "check"], &[]).await;
    assert!(code == 0 && shown.contains("1 responses (0 without a checksum)"), "{shown} {error}");
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let (code, _, error) = check("sqlite://none.db").await;
    assert!(code == 1 && error.contains("none.db"), "{error}");
}
