//! What only SQLite does: files, locks, other processes, and disk space.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use antiphon_store::{Measure, Settlement, Store, StoreError, StoreOptions, StoredTurn};
use antiphon_testkit::eventually;
use rusqlite::Connection;

use crate::fixture::{
    NOW, id, numbers, patient, project, record, record_all, record_chain, record_of, turn, whole,
};
use crate::limits::{hold, reservation};

async fn open_with(path: &Path, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    let url = format!("sqlite://{}", path.display()).parse().unwrap();
    antiphon_store::open(&url, options).await
}

async fn open(path: &Path) -> Arc<dyn Store> {
    open_with(path, patient()).await.unwrap()
}

async fn refusal(path: &Path) -> String {
    match open_with(path, StoreOptions::default()).await {
        Err(StoreError::Unusable(reason)) => reason,
        other => panic!("{:?} instead of a refusal", other.err()),
    }
}

/// Another program that uses the same file.
fn connect(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_its_version() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    open(&path).await.close().await;
    let later = "INSERT INTO antiphon_schema (version, name, checksum) VALUES (9999, 'later', '00')";
    connect(&path).execute(later, ()).unwrap();
    let reason = refusal(&path).await;
    assert!(reason.contains("schema version 9999") && reason.contains("up to 19"), "{reason}");
}

#[tokio::test]
async fn an_edited_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    open(&path).await.close().await;
    connect(&path).execute("UPDATE antiphon_schema SET checksum = '00' WHERE version = 1", ()).unwrap();
    let reason = refusal(&path).await;
    assert!(reason.contains("schema version 1") && reason.contains("differs from this build's"), "{reason}");
}

/// The first builds used another table for their only migration.
#[tokio::test]
async fn a_database_of_the_first_builds_keeps_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let store = open(&path).await;
    record_chain(&store, 1, 3, None).await;
    store.close().await;
    connect(&path)
        .execute_batch(
            "DROP TABLE antiphon_schema; DROP TABLE new_items; DROP TABLE background_turns; DROP TABLE background_events; DROP TABLE accounts; DROP TABLE credentials; \
             DROP TABLE admin_tokens; DROP TABLE sessions; DROP TABLE sign_ins; DROP TABLE keys; DROP TABLE audit; DROP TABLE changes; \
             DROP TABLE usage_rollups; ALTER TABLE request_log DROP COLUMN key_id; \
             ALTER TABLE request_log DROP COLUMN attempts; ALTER TABLE request_log DROP COLUMN cost_nano_usd; \
             DROP TABLE outcome_rollups; DROP TABLE latency_rollups; DROP TABLE account_rollups; DROP TABLE key_clients; DROP INDEX request_log_by_outcome; DROP INDEX request_log_by_code; \
             ALTER TABLE request_log DROP COLUMN sent_us; ALTER TABLE request_log DROP COLUMN attempt_log; \
             ALTER TABLE request_log DROP COLUMN reasoning; ALTER TABLE request_log DROP COLUMN estimated; \
             DROP TABLE counters; DROP TABLE reservations; DROP TABLE replicas; ALTER TABLE responses DROP COLUMN checksum; \
             ALTER TABLE responses DROP COLUMN body_checksum; DROP TABLE conversations; DROP TABLE conversation_items; \
             DROP INDEX responses_by_conversation; ALTER TABLE responses DROP COLUMN deletes; CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY)",
        )
        .unwrap();
    for _ in 0..2 {
        let store = open(&path).await;
        let chain = store.load_chain(&project("p"), whole(3)).await.unwrap();
        assert!(numbers(&chain, (1..=3).rev()));
        store.close().await;
    }
    assert!(!connect(&path).table_exists(None, "_sqlx_migrations").unwrap());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    let text = "Not a database at all, but somebody's notes. ".repeat(1_000);
    std::fs::write(&path, &text).unwrap();
    let reason = refusal(&path).await;
    assert!(reason.contains("notes.txt is not an SQLite database"), "{reason}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let reason = refusal(directory.path()).await;
    assert!(reason.contains("is a directory"), "{reason}");
    let reason = refusal(&path.join("a.db")).await;
    assert!(reason.contains("notes.txt"), "{reason}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_directory_that_takes_no_files_is_reported() {
    // Not even root can create files here.
    let reason = refusal(Path::new("/proc/antiphon.db")).await;
    assert!(reason.contains("/proc/antiphon.db can't be opened for reading and writing"), "{reason}");
    let reason = refusal(Path::new("/proc/antiphon/a.db")).await;
    assert!(reason.contains("the directory /proc/antiphon can't be created"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_open_one_new_file_at_once_share_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let stores = futures_util::future::join_all((0..4).map(|_| open(&path))).await;
    let mut tasks = tokio::task::JoinSet::new();
    for (n, store) in (0..).zip(stores.clone()) {
        let records = (0..250).map(|k| record(n * 250 + k, None)).collect();
        tasks.spawn(async move { record_all(&store, records).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for store in &stores {
        for n in 0..1_000 {
            assert!(store.load(&project("p"), id(n), NOW).await.unwrap().is_some());
        }
    }
    for store in stores {
        store.close().await;
    }
}

fn serving() -> StoreOptions {
    StoreOptions { serves: true, ..StoreOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_serves_one_gateway_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let first = open_with(&path, serving()).await.unwrap();
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let other_name = directory.path().join("./link.db");
    let refusals = tokio::join!(open_with(&path, serving()), open_with(&other_name, serving()));
    for (refused, name) in [(refusals.0, "a.db"), (refusals.1, "link.db")] {
        let Err(StoreError::Unusable(reason)) = refused else { panic!("two serve {name}") };
        let process = format!("(process {})", std::process::id());
        for part in [name, &process, "a.db.lock", "store.url"] {
            assert!(reason.contains(part), "{reason}");
        }
    }
    let beside = open(&path).await;
    beside.record(record(1, None)).await.unwrap();
    assert!(first.load(&project("p"), id(1), NOW).await.unwrap().is_some(), "a command works beside it");
    beside.close().await;
    let next = tokio::spawn(async move { open_with(&path, serving()).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.record(record(2, None)).await.unwrap();
    first.close().await;
    let next = next.await.unwrap().expect("it waits for the one before it");
    assert!(next.load(&project("p"), id(2), NOW).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_made_before_its_database_leads_to_the_same_lock_and_a_private_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let (middle, link, path) =
        (directory.path().join("middle.db"), directory.path().join("link.db"), disk.join("a.db"));
    std::os::unix::fs::symlink("disk/a.db", &middle).unwrap();
    std::os::unix::fs::symlink(&middle, &link).unwrap();
    let first = open_with(&link, serving()).await.unwrap();
    first.record(record(1, None)).await.unwrap();
    for end in ["", "-wal", "-shm", ".lock"] {
        let found = std::fs::metadata(format!("{}{end}", path.display())).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o600, "{end}");
    }
    let refusals = tokio::join!(open_with(&link, serving()), open_with(&path, serving()));
    for refused in [refusals.0, refusals.1] {
        let Err(StoreError::Unusable(reason)) = refused else { panic!("two serve one file") };
        assert!(reason.contains("disk/a.db.lock"), "{reason}");
    }
    first.close().await;
    open_with(&path, serving()).await.unwrap().close().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hard_link_to_a_served_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("a.db"), directory.path().join("b.db"));
    let first = open_with(&path, serving()).await.unwrap();
    first.record(record(1, None)).await.unwrap();
    std::fs::hard_link(&path, &other).unwrap();
    let Err(StoreError::Unusable(reason)) = open_with(&other, serving()).await else {
        panic!("two serve one file")
    };
    assert!(reason.contains("b.db by another path") && reason.contains("store.url"), "{reason}");
    first.record(record(2, None)).await.unwrap();
    first.close().await;
    let next = open_with(&other, serving()).await.unwrap();
    assert!(next.load(&project("p"), id(2), NOW).await.unwrap().is_some());
}

/// The log of a gateway that was killed stays behind when only the database is replaced by a backup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_another_database_is_named_and_never_moved_into_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let (path, restored) = (directory.path().join("a.db"), directory.path().join("restored.db"));
    let log = directory.path().join("restored.db-wal");
    let store = open(&path).await;
    record_chain(&store, 1, 3, None).await;
    let url_of = |path: &Path| format!("sqlite://{}", path.display()).parse().unwrap();
    antiphon_store::backup(&url_of(&path), &restored, &mut |_| {}).await.unwrap();
    record_chain(&store, 4, 100, Some((3, 3))).await;
    std::fs::copy(directory.path().join("a.db-wal"), &log).unwrap();
    store.close().await;
    let before = (std::fs::read(&restored).unwrap(), std::fs::read(&log).unwrap());
    let url = url_of(&restored);
    for attempt in 0..4 {
        let refused = match attempt {
            0 => antiphon_store::pending(&url).await.map(|_| ()),
            1 => antiphon_store::migrate(&url).await.map(|_| ()),
            2 => open_with(&restored, serving()).await.map(|_| ()),
            _ => open_with(&restored, StoreOptions::default()).await.map(|_| ()),
        };
        let Err(StoreError::Unusable(reason)) = refused else { panic!("{attempt}: {refused:?}") };
        assert!(reason.contains("restored.db-wal belongs to the database before it"), "{reason}");
        let after = (std::fs::read(&restored).unwrap(), std::fs::read(&log).unwrap());
        assert!(after == before, "attempt {attempt} changed a file");
    }
    std::fs::remove_file(&log).unwrap();
    let store = open(&restored).await;
    assert!(numbers(&store.load_chain(&project("p"), whole(3)).await.unwrap(), (1..=3).rev()));
}

#[tokio::test]
async fn a_database_in_memory_needs_no_lock() {
    let open = || async { antiphon_store::open(&"sqlite::memory:".parse().unwrap(), serving()).await };
    let (_one, _two) = (open().await.unwrap(), open().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_turns_survive_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let store = open(&path).await;
    record_chain(&store, 1, 700, None).await;
    let after_crash = directory.path().join("after-crash.db");
    for end in ["", "-wal"] {
        let with_end = |path: &Path| format!("{}{end}", path.display());
        std::fs::copy(with_end(&path), with_end(&after_crash)).unwrap();
    }
    let recovered = open(&after_crash).await;
    let chain = recovered.load_chain(&project("p"), whole(700)).await.unwrap();
    assert!(numbers(&chain, (1..=700).rev()));
    recovered.record(record(701, Some((700, 700)))).await.unwrap();
    store.close().await;
    assert!(!Path::new(&format!("{}-wal", path.display())).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_held_too_long_causes_a_deadline_and_then_recovery() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let options = StoreOptions { commit_timeout: Duration::from_secs(4), ..StoreOptions::default() };
    let store = open_with(&path, options).await.unwrap();
    let other = connect(&path);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in 1..=2 {
        let result = store.record(record(n, None)).await;
        assert!(matches!(result, Err(StoreError::Deadline(_))), "{result:?}");
        assert!(!store.is_available());
    }
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), None);
    other.execute_batch("ROLLBACK").unwrap();
    eventually("the store writes again", async || store.check().await.is_ok()).await;
    assert!(store.is_available());
    store.record(record(9, None)).await.unwrap();
    // The late write happened anyway.
    assert!(store.load(&project("p"), id(2), NOW).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_gone_takes_no_writes_until_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let (path, away) = (directory.path().join("a.db"), directory.path().join("away.db"));
    let store = open(&path).await;
    store.record(record(1, None)).await.unwrap();
    assert!(store.has_its_file());
    std::fs::rename(&path, &away).unwrap();
    let gone = async |n, says: &str| {
        assert!(!store.has_its_file());
        let written = store.record(record(n, None)).await;
        let Err(StoreError::Unavailable(reason)) = written else { panic!("{written:?}") };
        assert!(reason.contains("a.db") && reason.contains(says) && !store.is_available(), "{reason}");
        assert!(store.check().await.is_err());
    };
    gone(2, "was deleted").await;
    assert!(!path.exists(), "it is not made again");
    std::fs::write(&path, "").unwrap();
    gone(3, "was replaced").await;
    assert_eq!(path.metadata().unwrap().len(), 0);
    std::fs::rename(&away, &path).unwrap();
    store.check().await.unwrap();
    assert!(store.has_its_file() && store.is_available());
    store.record(record(4, None)).await.unwrap();
    store.close().await;
    let store = open(&path).await;
    for (n, is_there) in [(1, true), (2, false), (3, false), (4, true)] {
        assert_eq!(store.load(&project("p"), id(n), NOW).await.unwrap().is_some(), is_there, "{n}");
    }
}

#[tokio::test]
async fn a_turn_that_has_ended_counts_no_more_for_the_one_that_follows_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("a.db")).await;
    for n in 0..20 {
        let alone = vec![hold("key:k", Measure::Turns, 1, 1)];
        assert!(store.reserve(reservation(n, alone)).await.unwrap().is_held, "{n}");
        store.settle(Settlement::release(id(n)), None);
    }
}

/// Writes noise over a table's first page.
fn damage(path: &Path, table: &str) {
    use std::os::unix::fs::FileExt;
    let root =
        "SELECT (rootpage - 1) * (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = ?";
    let offset: i64 = connect(path).query_row(root, [table], |row| row.get(0)).unwrap();
    std::fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(&[0xa5; 8192], offset.unsigned_abs())
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_what_would_fail_a_turn() {
    const TABLES: [&str; 5] = ["responses", "items", "request_log", "counters", "reservations"];
    for table in TABLES {
        for is_missing in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.db");
            let store = open(&path).await;
            store.check().await.unwrap();
            store.close().await;
            if is_missing {
                connect(&path).execute_batch(&format!("DROP TABLE {table}")).unwrap();
            } else {
                damage(&path, table);
            }
            let store = open(&path).await;
            assert!(store.check().await.is_err(), "{table}, missing: {is_missing}");
        }
    }
}

/// The goal is 1.3 times what the turns added.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_costs_little_more_disk_than_its_bytes() {
    const TURNS: u64 = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let store = open(&path).await;
    let mut added = 0;
    for batch in 0..TURNS / 500 {
        let records: Vec<_> = (batch * 500..(batch + 1) * 500).map(usual_record).collect();
        let sizes = records.iter().map(|record| {
            let turn = &record.response.turn;
            turn.input.len() + turn.output.len() + record.response.body.len()
        });
        added += sizes.sum::<usize>();
        record_all(&store, records).await;
    }
    store.close().await;
    let size = usize::try_from(path.metadata().unwrap().len()).unwrap();
    let per_turn = |bytes: usize| bytes / usize::try_from(TURNS).unwrap();
    println!("{} bytes a turn on disk for {} that it added", per_turn(size), per_turn(added));
    assert!(size * 10 <= added * 13, "{} bytes a turn on disk for {}", per_turn(size), per_turn(added));
}

/// Sizes and ids as with the real API: chains of ten turns, about 100 bytes of input, 350 of output and 1.3 KB of body.
fn usual_record(n: u64) -> antiphon_store::Record {
    // Spreads the sizes evenly, and makes the ids look random.
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 7);
    let vary = |least: u64, most: u64, step: u32| least + mixed.rotate_left(step) % (most - least);
    let upstream = format!("{:016x}{:032x}", n, u128::from(mixed) * u128::from(mixed));
    let parent = (!n.is_multiple_of(10)).then(|| (n - 1, u32::try_from(n % 10).unwrap()));
    let turn = StoredTurn {
        account: "openai-a".into(),
        boundary: "openai-org-1".into(),
        upstream_id: Some(format!("resp_{upstream}")),
        model: "gpt-5.1-mini".into(),
        expires_at: Some(NOW.plus(Duration::from_hours(720))),
        input: format!(r#"[{{"role":"user","content":"{}"}}]"#, words(mixed, vary(20, 120, 3))).into(),
        output: format!(
            r#"[{{"id":"msg_{upstream}","type":"message","status":"completed","role":"assistant","content":"{}"}}]"#,
            words(mixed, vary(120, 340, 17))
        )
        .into(),
        ..turn(n, parent)
    };
    let mut record = record_of("default", turn);
    let body = include_str!("usual-response.json").replace("$text", &words(mixed, vary(20, 400, 29)));
    let ids = [id(n), id(n.saturating_sub(1))].map(|id| id.to_string());
    let body = body.replace("$id", &ids[0]).replace("$parent", &ids[1]).replace("$n", &n.to_string());
    record.response.body = body.into();
    record.log.account = Some("openai-a".into());
    record.log.model = "gpt-5.1-mini".into();
    record
}

/// Text that compresses no better than what people write.
fn words(seed: u64, len: u64) -> String {
    let letters = (0..len).scan(seed, |state, _| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(char::from(b"etaoinshrdlu cm "[usize::try_from(*state >> 60).unwrap()]))
    });
    letters.collect()
}
