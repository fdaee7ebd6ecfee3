//! `antiphon usage`: the same report as the admin API's, from the store.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Postgres, Process, Setup};
use serde_json::{Value, json};

use crate::binary;
use crate::command::antiphon;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_printed_as_table_json_and_csv() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let in_file = Setup::over(&upstream).config("prices = [{ model = \"sim\", input = 1, output = 4 }]");
    let server = Postgres::shared_database().await;
    let in_postgres = in_file.clone().database_url(&server);
    for (setup, is_server) in [(in_file, false), (in_postgres, true)] {
        let gateway = Process::start(binary(), &setup).await;
        for _ in 0..3 {
            upstream.script(Script::answer("a").usage(100, 10));
            gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        }
        let dir = setup.database().parent().unwrap().to_owned();
        let file = format!("sqlite://{}", setup.database().display());
        let url = if is_server { server.clone() } else { file };
        let environment = [("ANTIPHON_STORE__URL", url.as_str())];
        let run = async |args: &[&str]| antiphon(&dir, &[&["usage"], args].concat(), &environment).await;
        let (code, json, error) = run(&["--group-by", "model,day", "--json"]).await;
        assert_eq!(code, 0, "{error}");
        let report: Value = serde_json::from_str(&json).unwrap();
        let group = &report["data"][0];
        assert_eq!((&group["turns"], &group["model"]), (&json!(3), &json!("sim")), "while the gateway runs");
        assert_eq!((&group["cost_usd"], &report["has_more"]), (&json!("0.000420000"), &json!(false)));
        gateway.client.created(json!({"model": "\u{1b}]0;x\u{7}\n\u{202e}", "input": "x"})).await;
        assert!(gateway.terminate().await.1);
        let (_, csv, _) = run(&["--csv", "--account", "one"]).await;
        assert!(csv.starts_with("start,project,") && csv.contains("\r\n,,,,,4,0,"), "{csv}");
        let (_, table, _) = run(&["--group-by", "account"]).await;
        assert!(table.contains("account  turns") && table.contains("one          4"), "{table}");
        let (_, table, _) = run(&["--group-by", "model"]).await;
        assert!(table.contains(r"\u{1b}]0;x\u{7}\n\u{202e}"), "{table}");
        assert!(!table.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{table}");
        let (_, table, _) = run(&["--account", "two"]).await;
        assert!(table.ends_with("no turns\n"), "{table}");
        let (code, _, error) = run(&["--key", "typo"]).await;
        assert!(code == 1 && error.contains("key \"typo\" not found"), "{error}");
        for wrong in [&["--from", "soon"][..], &["--group-by", "user"], &["--json", "--csv"]] {
            let (code, _, error) = run(wrong).await;
            assert_eq!(code, 2, "{error}");
        }
    }
}
