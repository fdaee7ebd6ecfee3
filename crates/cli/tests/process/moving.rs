//! `antiphon store copy`: a chain that continues in another database.

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Postgres, Process, Setup};
use serde_json::{Value, json};

use crate::binary;
use crate::command::antiphon;

/// Runs a gateway over the setup's database for a few turns; returns the last one.
async fn turns(setup: &Setup, mut parent: Value) -> Value {
    let gateway = Process::start(binary(), setup).await;
    for n in 0..3 {
        let body =
            json!({"model": "sim", "input": format!("turn {n}"), "previous_response_id": parent["id"]});
        parent = gateway.client.created(body).await;
        let path = format!("/v1/responses/{}", parent["id"].as_str().unwrap());
        assert_eq!(gateway.client.get(&path).await.ok(), parent);
    }
    assert!(gateway.terminate().await.1);
    parent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_moves_to_postgresql_and_back() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let in_file = Setup::over(&upstream);
    let server = Postgres::shared_database().await;
    let in_postgres = Setup::over(&upstream).database_url(&server);
    let directory = tempfile::tempdir().unwrap();
    let back = format!("sqlite://{}/back.db", directory.path().display());
    let in_new_file = Setup::over(&upstream).database_url(&back);
    let file = format!("sqlite://{}", in_file.database().display());
    let environment = [("SERVER", server.as_str())];

    let parent = turns(&in_file, Value::Null).await;
    let first = ["store", "copy", "--from", &file, "--to", "env:SERVER"];
    let (code, shown, error) = antiphon(directory.path(), &first, &environment).await;
    assert_eq!(code, 0, "{error}");
    assert!(shown.contains("responses") && !shown.contains("@"), "{shown}");
    let parent = turns(&in_postgres, parent).await;

    let second = ["store", "copy", "--from", "env:SERVER", "--to", &back, "--json"];
    let (code, shown, error) = antiphon(directory.path(), &second, &environment).await;
    assert_eq!(code, 0, "{error}");
    let report: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&report["verified"], &report["tables"][0]["copied"]), (&json!(true), &json!(6)));
    turns(&in_new_file, parent).await;
    assert_eq!(upstream.last_request().unwrap().input().len(), 17, "nine turns");

    // The new file has new turns: it is not a copy any more.
    let (code, shown, error) = antiphon(directory.path(), &second, &environment).await;
    let report: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &report["tables"][0]["extra"]), (1, &json!(3)));
    assert!(error.contains("Nothing was overwritten") && error.contains("3 extra"), "{error}");
    let unset = ["store", "copy", "--from", "env:NOT_THERE", "--to", &back];
    let (code, _, error) = antiphon(directory.path(), &unset, &environment).await;
    assert!(code == 1 && error.contains("--from") && error.contains("NOT_THERE"), "{error}");
}

#[tokio::test]
async fn a_database_is_not_copied_into_itself_by_another_name() {
    let directory = tempfile::tempdir().unwrap();
    let environment = [("ANTIPHON_STORE__URL", "sqlite://a.db")];
    assert_eq!(antiphon(directory.path(), &["migrate"], &environment).await.0, 0);
    let name = |name: &str| directory.path().join(name);
    std::fs::hard_link(name("a.db"), name("hard.db")).unwrap();
    std::os::unix::fs::symlink(name("a.db"), name("soft.db")).unwrap();
    for to in ["sqlite://a.db", "sqlite://hard.db", "sqlite://soft.db"] {
        let copy = ["store", "copy", "--from", "sqlite://a.db", "--to", to];
        let (code, _, error) = antiphon(directory.path(), &copy, &[]).await;
        assert!(code == 1 && error.contains("can't be copied to itself"), "{to}: {error}");
    }
}
