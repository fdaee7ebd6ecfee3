//! `antiphon doctor`: what it finds on a healthy machine, and on others.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Postgres, Process, Setup};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::binary;
use crate::command::antiphon;

/// The exit code, and the findings by their checks.
async fn examine(dir: &Path, args: &[&str]) -> (i32, Value) {
    let (code, shown, error) = antiphon(dir, &[args, &["doctor", "--json"]].concat(), &[]).await;
    (code, serde_json::from_str(&shown).unwrap_or_else(|_| panic!("{shown}{error}")))
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("{check}: {report}"))
}

fn assert_finding(report: &Value, check: &str, status: &str, words: &str) {
    let found = finding(report, check);
    assert_eq!(found["status"], status, "{found}");
    assert!(found.to_string().contains(words), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_gateway_has_no_problems_beside_it() {
    let keyed = Options { api_key: Some("sk-secret".to_owned()), ..Options::default() };
    let upstream = Simulator::bind(keyed).await.unwrap();
    for url in [None, Some(Postgres::shared_database().await)] {
        let setup = Setup::over(&upstream).account_key("sk-secret");
        let setup = match &url {
            Some(url) => setup.database_url(url),
            None => setup,
        };
        let gateway = Process::start(binary(), &setup).await;
        let address = gateway.url.strip_prefix("http://").unwrap().to_owned();
        let directory = setup.database().parent().unwrap().to_owned();
        // The file has a secret in it, and port 0.
        let served = directory.join("served.toml");
        std::fs::write(&served, format!("listen = \"{address}\"\n{}", setup.toml())).unwrap();
        std::fs::set_permissions(&served, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (code, report) = examine(&directory, &["--config", "served.toml"]).await;
        assert_eq!((code, &report["healthy"]), (0, &Value::Bool(true)), "{report}");
        assert_finding(&report, "store.schema", "ok", "up to date");
        assert_finding(&report, "account one", "ok", "its upstream answers");
        assert_finding(&report, "listen", "ok", "a gateway serves");
        match url {
            Some(_) => assert_finding(&report, "store.clock", "ok", "the database server"),
            None => assert_finding(&report, "store.structure", "ok", "intact"),
        }
        assert!(!report.to_string().contains("sk-secret"));
        let (code, shown, _) = antiphon(&directory, &["--config", "served.toml", "doctor"], &[]).await;
        assert!(code == 0 && shown.contains("ok       listen: "), "{shown}");
    }
}

#[tokio::test]
async fn each_problem_has_its_line_and_none_hides_another() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "listen = \"{}\"\nadmin_listen = \"192.0.2.1:9\"\nstore.url = \"sqlite://a.db\"\n\
         tls = {{ certificate = \"none.pem\", key = \"none.pem\" }}\n\
         [limits]\nmemory = \"512MiB\"\nmax_connections = 1000000\n\
         [[accounts]]\nname = \"no-secret\"\nbase_url = \"http://127.0.0.1:1\"\napi_key = {{ env = \"UNSET_KEY\" }}\n\
         [[accounts]]\nname = \"gone\"\nbase_url = \"http://127.0.0.1:1\"\napi_key = {{ value = \"sk-secret\" }}\n",
        taken.local_addr().unwrap()
    );
    std::fs::write(dir.path().join("antiphon.toml"), config).unwrap();
    std::fs::set_permissions(dir.path().join("antiphon.toml"), std::fs::Permissions::from_mode(0o644))
        .unwrap();
    std::fs::write(dir.path().join("a.db"), "plain text, and long enough for a header of a database file")
        .unwrap();
    std::fs::create_dir(dir.path().join("a.db.lock")).unwrap();
    std::thread::spawn(move || {
        while let Ok((connection, _)) = taken.accept() {
            drop(connection);
        }
    });
    let (code, report) = examine(dir.path(), &[]).await;
    assert_eq!((code, &report["healthy"]), (1, &Value::Bool(false)));
    assert_finding(&report, "config", "problem", "UNSET_KEY");
    assert_finding(&report, "config.mode", "warning", "chmod 600");
    assert_finding(&report, "store.mode", "warning", "a.db");
    assert_finding(&report, "store.access", "problem", "a.db.lock can't be written");
    assert_finding(&report, "tls", "problem", "none.pem");
    assert_finding(&report, "store", "problem", "is not an SQLite database");
    assert_finding(&report, "account no-secret", "problem", "its secret can't be read");
    assert_finding(&report, "account gone", "problem", "antiphon accounts test gone");
    assert_finding(&report, "listen", "problem", "another program listens");
    assert_finding(&report, "admin_listen", "problem", "no address of this machine");
    assert_finding(&report, "files", "warning", "LimitNOFILE");
    assert_finding(&report, "memory", "warning", "512 MiB");
    assert!(!report.to_string().contains("sk-secret"));

    let public = "listen = \"0.0.0.0:0\"\nstore.url = \"sqlite://b.db\"\n\
                  [[accounts]]\nname = \"gone\"\nbase_url = \"http://127.0.0.1:1\"\n";
    std::fs::write(dir.path().join("antiphon.toml"), public).unwrap();
    assert_finding(&examine(dir.path(), &[]).await.1, "keys", "problem", "antiphon keys create");
    assert!(!dir.path().join("b.db").exists(), "it changes nothing");
    assert_eq!(antiphon(dir.path(), &["keys", "create", "one"], &[]).await.0, 0);
    assert_finding(&examine(dir.path(), &[]).await.1, "keys", "ok", "clients need keys");

    std::fs::write(dir.path().join("antiphon.toml"), "colour = 1").unwrap();
    let (code, report) = examine(dir.path(), &[]).await;
    assert_eq!(code, 1);
    assert_finding(&report, "config", "problem", "colour");
}

#[tokio::test]
async fn a_configuration_from_a_pipe_is_read_once() {
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("pipe.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().await.unwrap().success());
    let accounts = "[[accounts]]\nname = \"gone\"\nbase_url = \"http://127.0.0.1:1\"\n";
    let by_flag: (&[&str], &[(&str, &str)]) = (&["--config", "pipe.toml", "doctor", "--json"], &[]);
    let by_variable: (&[&str], &[(&str, &str)]) =
        (&["doctor", "--json"], &[("ANTIPHON_CONFIG", "pipe.toml")]);
    for (args, environment) in [by_flag, by_variable] {
        for (config, status) in [(accounts, "ok"), ("colour = 1", "problem")] {
            let pipe = pipe.clone();
            let writing = std::thread::spawn(move || std::fs::write(pipe, config));
            let (_, shown, _) = antiphon(dir.path(), args, environment).await;
            writing.join().unwrap().unwrap();
            assert_finding(&serde_json::from_str(&shown).unwrap(), "config", status, "");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_can_not_be_written_is_a_problem() {
    let url = Postgres::shared_database().await;
    let database = url.rsplit('/').next().unwrap();
    let dir = TempDir::new().unwrap();
    let config = format!("store.url = \"{url}\"\n");
    std::fs::write(dir.path().join("antiphon.toml"), config).unwrap();
    assert_eq!(antiphon(dir.path(), &["migrate"], &[]).await.0, 0);
    assert_finding(&examine(dir.path(), &[]).await.1, "store.access", "ok", "may write");
    let alter = |setting: &str| format!("ALTER DATABASE {database} {setting}");
    let server = Postgres::shared();
    server.execute("postgres", &alter("SET default_transaction_read_only = on")).await;
    let (code, report) = examine(dir.path(), &[]).await;
    assert_eq!(code, 1);
    assert_finding(&report, "store.access", "problem", "default_transaction_read_only");
    server.execute("postgres", &alter("RESET default_transaction_read_only")).await;

    let reader = format!("reader_of_{database}");
    let grant = format!(
        "CREATE ROLE {reader} LOGIN; GRANT USAGE ON SCHEMA public TO {reader}; \
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}; GRANT INSERT, UPDATE, DELETE ON items TO {reader}"
    );
    server.execute(database, &grant).await;
    let url = format!("{}{reader}@{}", "postgres://", url.rsplit('@').next().unwrap());
    std::fs::write(dir.path().join("antiphon.toml"), format!("store.url = \"{url}\"\n")).unwrap();
    let report = examine(dir.path(), &[]).await.1;
    assert_finding(
        &report,
        "store.access",
        "problem",
        "tables: counters, request_log, reservations, responses",
    );
}
