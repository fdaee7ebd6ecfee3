//! Copying a store to another database, in every direction.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use antiphon_store::{
    Appended, CopyProgress, CopyReport, CredentialLock, LogRow, Status, Store, StoreError, StoreUrl,
    StoredCredential,
};
use antiphon_testkit::{Postgres, PostgresOptions};
use bytes::Bytes;
use tempfile::TempDir;
use uuid::Uuid;

use crate::background::{limits, queued};
use crate::conversations::{begin, post};
use crate::fixture::{
    NOW, after, append_all, entry, id, key, log_row, newest, numbers, patient, project, record, record_all,
    record_chain, record_of, turn, whole,
};
use crate::keys::client;
use crate::limits::{reservation, usual_holds};
use crate::sessions::session;

/// A database to copy from and one to copy to.
struct Pair {
    from: StoreUrl,
    to: StoreUrl,
    _files: TempDir,
}

#[derive(Clone, Copy)]
enum In {
    File,
    Server,
    /// Behind PgBouncer, which may give each transaction another connection.
    Pooler,
}

/// Every direction.
async fn pairs() -> Vec<Pair> {
    use In::{File, Pooler, Server};
    let mut pairs = Vec::new();
    for (from, to) in
        [(File, File), (File, Server), (Server, File), (Server, Server), (File, Pooler), (Pooler, File)]
    {
        let files = tempfile::tempdir().unwrap();
        let url = async |place: In, name: &str| match place {
            File => format!("sqlite://{}/{name}.db", files.path().display()),
            Server => Postgres::shared_database().await,
            Pooler => Postgres::shared_pooled_database().await,
        };
        let (from, to) = (url(from, "from").await, url(to, "made/for/it/to").await);
        pairs.push(Pair { from: from.parse().unwrap(), to: to.parse().unwrap(), _files: files });
    }
    pairs
}

async fn open(url: &StoreUrl) -> Arc<dyn Store> {
    antiphon_store::open(url, patient()).await.unwrap()
}

async fn copy(pair: &Pair) -> CopyReport {
    antiphon_store::copy(&pair.from, &pair.to, &mut |_| {}).await.unwrap()
}

/// The copied, present, differing and extra rows of each table.
fn counts(report: &CopyReport) -> Vec<(&'static str, [u64; 4])> {
    let tables = report.tables.iter();
    tables.map(|table| (table.table, [table.copied, table.present, table.differing, table.extra])).collect()
}

/// Two projects, forks, deleted and expired turns, payloads that compress and that are large, and texts beyond ASCII.
async fn fill(store: &Arc<dyn Store>) {
    record_chain(store, 1, 50, None).await;
    record_chain(store, 100, 5, Some((20, 20))).await;
    let mut records = vec![record_of("other", turn(1, None)), record_of("ü", turn(300, None))];
    let mut large = turn(301, None);
    large.input = Bytes::from(format!(r#"[{{"id":"big","text":"{}"}}]"#, "long ".repeat(1_500_000)));
    large.referenced = vec![0];
    large.upstream_id = None;
    large.status = Status::Incomplete;
    records.push(record_of("p", large));
    let mut expiring = turn(302, None);
    expiring.expires_at = Some(after(5));
    records.push(record_of("p", expiring));
    record_all(store, records).await;
    assert!(store.delete(&project("p"), id(104), after(1)).await.unwrap());
    let odd =
        |n| LogRow { code: Some("odd\0code".into()), account: None, ..log_row("p", id(1_000 + n), after(n)) };
    append_all(store, (0..40).map(odd)).await;
    assert!(store.roll_up_hour(NOW, after(4_000)).await.unwrap().is_some());
    assert!(store.add_admin_token("admin", vec![1; 32], entry(NOW)).await.unwrap());
    store.add_session(session(1, 10), entry(NOW)).await.unwrap();
    store.pause_account("one", entry(after(1))).await.unwrap();
    let lock = CredentialLock { holder: Uuid::from_u128(7), now: NOW, until: after(90) };
    assert!(store.lock_credential("two", lock).await.unwrap());
    let credential = StoredCredential { origin: "o".into(), sealed: Some(vec![0, 255]) };
    assert!(store.put_credential("two", credential, lock).await.unwrap());
    assert!(store.reserve(reservation(1, usual_holds())).await.unwrap().is_held);
    assert!(store.add_key(key("laptop", 1), entry(NOW)).await.unwrap());
    store.note_key_client(key("laptop", 1).id, client("curl/8", 1)).await.unwrap();
    let conversation = begin(store, 1).await;
    assert_eq!(store.post(post(&conversation, [400])).await.unwrap(), Appended::Done);
    assert!(store.queue_background(queued(500), limits(9)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_store_is_complete_and_its_chains_can_be_continued() {
    for pair in pairs().await {
        let source = open(&pair.from).await;
        fill(&source).await;
        source.close().await;
        let report = copy(&pair).await;
        assert!(report.is_verified(), "{report:?}");
        assert_eq!(
            counts(&report),
            [
                ("responses", [60, 0, 0, 0]),
                ("items", [60, 0, 0, 0]),
                ("request_log", [98, 0, 0, 0]),
                ("background_turns", [1, 0, 0, 0]),
                ("background_events", [1, 0, 0, 0]),
                ("usage_rollups", [6, 0, 0, 0]),
                ("outcome_rollups", [2, 0, 0, 0]),
                ("latency_rollups", [0, 0, 0, 0]),
                ("account_rollups", [1, 0, 0, 0]),
                ("accounts", [1, 0, 0, 0]),
                ("credentials", [1, 0, 0, 0]),
                ("admin_tokens", [1, 0, 0, 0]),
                ("sessions", [1, 0, 0, 0]),
                ("counters", [2, 0, 0, 0]),
                ("reservations", [1, 0, 0, 0]),
                ("keys", [1, 0, 0, 0]),
                ("key_clients", [1, 0, 0, 0]),
                ("audit", [4, 0, 0, 0]),
                ("changes", [1, 0, 0, 0]),
                ("conversations", [1, 0, 0, 0]),
                ("conversation_items", [1, 0, 0, 0]),
            ]
        );
        let (source, target) = (open(&pair.from).await, open(&pair.to).await);
        for n in (1..=50).chain(100..=103) {
            let load =
                async |store: &Arc<dyn Store>| store.load(&project("p"), id(n), NOW).await.unwrap().unwrap();
            assert_eq!(load(&source).await, load(&target).await);
        }
        let load = async |store: &Arc<dyn Store>| store.load(&project("p"), id(301), NOW).await.unwrap();
        assert_eq!(load(&source).await, load(&target).await);
        assert!(target.load(&project("p"), id(104), NOW).await.unwrap().is_none(), "it was deleted");
        assert!(target.load(&project("p"), id(302), after(5)).await.unwrap().is_none(), "it has expired");
        assert_eq!(source.list_accounts().await.unwrap(), target.list_accounts().await.unwrap());
        assert_eq!(source.list_keys().await.unwrap(), target.list_keys().await.unwrap());
        assert_eq!(source.list_audit(newest(9)).await.unwrap(), target.list_audit(newest(9)).await.unwrap());
        let tokens = target.load_credential("two").await.unwrap().unwrap();
        assert_eq!(tokens.sealed, Some(vec![0, 255]));
        assert!(target.load(&project("ü"), id(300), NOW).await.unwrap().is_some());
        target.record(record(105, Some((104, 25)))).await.unwrap();
        let chain = target.load_chain(&project("p"), whole(105)).await.unwrap();
        assert!(numbers(&chain, (100..=105).rev().chain((1..=20).rev())));
        assert_eq!(
            source.stats(NOW).await.unwrap()[0],
            target.stats(NOW).await.unwrap()[0],
            "of another project"
        );
        source.close().await;
        target.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_copy_adds_only_new_rows() {
    for pair in pairs().await {
        let source = open(&pair.from).await;
        record_chain(&source, 1, 10, None).await;
        assert_eq!(counts(&copy(&pair).await)[0], ("responses", [10, 0, 0, 0]), "while the source is open");
        assert_eq!(counts(&copy(&pair).await)[0], ("responses", [0, 10, 0, 0]));
        record_chain(&source, 11, 3, Some((10, 10))).await;
        let report = copy(&pair).await;
        assert_eq!((counts(&report)[0], report.is_verified()), (("responses", [3, 10, 0, 0]), true));
        source.close().await;
    }
}

/// Runs a copy, and `work` as soon as its first row was read.
async fn copy_while(pair: &Pair, work: impl AsyncFnOnce() + Send) -> CopyReport {
    let mut work = Some(work);
    let mut progress = |_: CopyProgress| {
        if let Some(work) = work.take() {
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work()));
        }
    };
    antiphon_store::copy(&pair.from, &pair.to, &mut progress).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_changes_during_the_copy_is_not_verified() {
    for pair in pairs().await {
        let source = open(&pair.from).await;
        record_chain(&source, 1, 10, None).await;
        let report = copy_while(&pair, async || record_chain(&source, 11, 2, Some((10, 10))).await).await;
        assert!(!report.is_verified(), "{report:?}");
        assert_eq!((report.tables[0].source.rows, report.tables[0].target.rows), (12, 10));
        let report = copy(&pair).await;
        assert_eq!((counts(&report)[0], report.is_verified()), (("responses", [2, 10, 0, 0]), true));

        let delete = async || assert!(source.delete(&project("p"), id(3), NOW).await.unwrap());
        let report = copy_while(&pair, delete).await;
        assert!(!report.is_verified(), "{report:?}");
        source.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_idle_transactions_can_be_copied_from() {
    let from = Postgres::shared_database().await;
    let source = open(&from.parse().unwrap()).await;
    record_chain(&source, 1, 10, None).await;
    source.close().await;
    let name = from.rsplit('/').next().unwrap();
    let limit = format!("ALTER DATABASE \"{name}\" SET idle_in_transaction_session_timeout = '100ms'");
    Postgres::shared().execute(name, &limit).await;
    let files = tempfile::tempdir().unwrap();
    let to = format!("sqlite://{}/to.db", files.path().display());
    let pair = Pair { from: from.parse().unwrap(), to: to.parse().unwrap(), _files: files };
    // A slow target.
    let report = copy_while(&pair, async || tokio::time::sleep(Duration::from_millis(400)).await).await;
    assert!(report.is_verified());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_copy_continues_where_it_ended() {
    for pair in pairs().await {
        let source = open(&pair.from).await;
        record_chain(&source, 1, 3_500, None).await;
        source.close().await;
        let (seen, mut progress) = tokio::sync::mpsc::unbounded_channel::<CopyProgress>();
        let mut report = |progress| seen.send(progress).unwrap();
        tokio::select! {
            _ = antiphon_store::copy(&pair.from, &pair.to, &mut report) => panic!("it was not broken off"),
            () = async {
                while progress.recv().await.unwrap().rows < 2_000 {}
            } => {}
        }
        let report = copy(&pair).await;
        let (_, [copied, present, ..]) = counts(&report)[0];
        assert!(report.is_verified() && copied + present == 3_500 && present >= 1_000, "{report:?}");
        let target = open(&pair.to).await;
        let chain = target.load_chain(&project("p"), whole(3_500)).await.unwrap();
        assert!(numbers(&chain, (1..=3_500).rev()));
        target.close().await;
    }
}

/// Runs a copy, and kills the server in the middle of it. Returns the error.
async fn copy_until_killed(pair: &Pair, server: &mut Postgres) -> String {
    let mut progress = |progress: CopyProgress| {
        if progress.rows == 1_500 {
            server.kill9();
        }
    };
    let result = antiphon_store::copy(&pair.from, &pair.to, &mut progress).await;
    server.restart();
    let Err(StoreError::Unavailable(reason)) = result else { panic!("{result:?}") };
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_server_is_named_and_the_rest_is_copied_once_it_is_back() {
    let mut server = Postgres::start(PostgresOptions::default());
    let on_server: StoreUrl = server.create_database("p").await.parse().unwrap();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str| -> StoreUrl {
        format!("sqlite://{}/{name}.db", files.path().display()).parse().unwrap()
    };
    let source = open(&file("from")).await;
    record_chain(&source, 1, 3_500, None).await;
    source.close().await;
    for (from, to) in [(file("from"), on_server.clone()), (on_server.clone(), file("to"))] {
        let pair = Pair { from, to, _files: tempfile::tempdir().unwrap() };
        let reason = copy_until_killed(&pair, &mut server).await;
        assert!(reason.starts_with(&on_server.to_string()), "{reason}");
        let report = copy(&pair).await;
        let (_, [copied, present, ..]) = counts(&report)[0];
        assert!(report.is_verified() && copied + present == 3_500 && present >= 1_000, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn differing_and_extra_rows_are_counted_and_not_touched() {
    for pair in pairs().await {
        let (source, target) = (open(&pair.from).await, open(&pair.to).await);
        record_chain(&source, 1, 4, None).await;
        let mut other = turn(2, Some((1, 1)));
        other.model = "another".into();
        record_all(&target, vec![record_of("p", other), record(7, None)]).await;
        target.close().await;
        let report = copy(&pair).await;
        assert!(!report.is_verified());
        assert_eq!(counts(&report)[0], ("responses", [3, 0, 1, 1]));
        assert_eq!((report.tables[0].source.rows, report.tables[0].target.rows), (4, 5));
        let target = open(&pair.to).await;
        let kept = target.load(&project("p"), id(2), NOW).await.unwrap().unwrap();
        assert_eq!(kept.turn.model, "another");
        target.close().await;
        source.close().await;
    }
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file());
    files.map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_file_is_not_changed_with_a_write_ahead_log_or_without() {
    let (there, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = |directory: &TempDir| format!("sqlite://{}/a.db", directory.path().display());
    let source = open(&url(&there).parse().unwrap()).await;
    record_chain(&source, 1, 20, None).await;
    // As after a kill: the last writes are only in the write-ahead log.
    let killed = tempfile::tempdir().unwrap();
    for (path, bytes) in files(there.path()).into_iter().filter(|(path, _)| !path.ends_with("-shm")) {
        std::fs::write(killed.path().join(Path::new(&path).file_name().unwrap()), bytes).unwrap();
    }
    source.close().await;
    for directory in [there, killed] {
        let content = |files: BTreeMap<String, Vec<u8>>| -> BTreeMap<_, _> {
            files.into_iter().filter(|(path, _)| !path.ends_with("-shm")).collect()
        };
        let before = content(files(directory.path()));
        let pair = Pair {
            from: url(&directory).parse().unwrap(),
            to: url(&target).parse().unwrap(),
            _files: tempfile::tempdir().unwrap(),
        };
        let report = copy(&pair).await;
        assert_eq!((report.is_verified(), report.tables[0].source.rows), (true, 20));
        assert_eq!(content(files(directory.path())), before);
    }
}

#[tokio::test]
async fn a_user_who_may_only_read_can_copy_from_a_source() {
    let url = Postgres::shared_database().await;
    let store = open(&url.parse().unwrap()).await;
    record_chain(&store, 1, 5, None).await;
    store.close().await;
    let name = url.rsplit('/').next().unwrap();
    let role = format!("reader_{name}");
    let grant = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'reads'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    );
    Postgres::shared().execute(name, &grant).await;
    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, address) = rest.rsplit_once('@').unwrap();
    let target = tempfile::tempdir().unwrap();
    let pair = Pair {
        from: format!("{scheme}://{role}:reads@{address}").parse().unwrap(),
        to: format!("sqlite://{}/a.db", target.path().display()).parse().unwrap(),
        _files: target,
    };
    assert!(copy(&pair).await.is_verified());
}

#[tokio::test]
async fn a_source_that_is_no_store_is_refused_and_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let url = |name: &str| -> StoreUrl {
        format!("sqlite://{}/{name}", directory.path().display()).parse().unwrap()
    };
    std::fs::write(directory.path().join("text.db"), "this is no database, but it is long enough to be read")
        .unwrap();
    std::fs::write(directory.path().join("empty.db"), "").unwrap();
    std::fs::create_dir(directory.path().join("folder.db")).unwrap();
    let empty_server: StoreUrl = Postgres::shared_database().await.parse().unwrap();
    let cases = [
        (url("to.db"), "there is no file"),
        (url("missing.db"), "there is no file"),
        (url("folder.db"), "is a directory"),
        (url("text.db"), "is not an SQLite database"),
        (url("empty.db"), "run `antiphon migrate`"),
        ("sqlite::memory:".parse().unwrap(), "can't be copied"),
        (empty_server, "run `antiphon migrate`"),
    ];
    for (from, says) in cases {
        let result = antiphon_store::copy(&from, &url("to.db"), &mut |_| {}).await;
        let Err(StoreError::Unusable(reason)) = result else { panic!("{from}: {result:?}") };
        assert!(reason.contains(says), "{reason}");
    }
    let file = url("same.db");
    open(&file).await.close().await;
    let other_spelling = url(".//same.db");
    let same = antiphon_store::copy(&file, &other_spelling, &mut |_| {}).await;
    assert!(matches!(same, Err(StoreError::Unusable(reason)) if reason.contains("to itself")));
    assert!(!directory.path().join("missing.db").exists() && !directory.path().join("to.db").exists());
}
