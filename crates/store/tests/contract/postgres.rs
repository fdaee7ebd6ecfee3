//! What only PostgreSQL does: schemas, logins, locks, and several stores over one database.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::ItemId;
use antiphon_store::chain::Chains;
use antiphon_store::{Appended, Migrate, PurgeProgress, Record, Store, StoreError, StoreOptions, StoreUrl};
use antiphon_testkit::{Postgres, eventually};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::fixture::{
    Fixture, InPostgres, NOW, after, id, numbers, patient, project, record, record_all, record_chain, whole,
};

const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn open_with(url: &str, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    antiphon_store::open(&url.parse().unwrap(), options).await
}

async fn open(url: &str) -> Arc<dyn Store> {
    open_with(url, patient()).await.unwrap()
}

async fn refusal(url: &str, migrate: Migrate) -> String {
    match open_with(url, StoreOptions { migrate, ..StoreOptions::default() }).await {
        Err(StoreError::Unusable(reason)) => reason,
        other => panic!("{:?} instead of a refusal", other.err()),
    }
}

/// The name of the database that a URL ends with.
fn database(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

async fn execute(url: &str, sql: &str) {
    Postgres::shared().execute(database(url), sql).await;
}

/// Another client of the same database.
pub(crate) async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_newer_and_an_edited_schema_are_refused() {
    let url = Postgres::shared_database().await;
    open(&url).await.close().await;
    execute(&url, "INSERT INTO antiphon_schema (version, name, checksum) VALUES (9999, 'later', '00')").await;
    for migrate in [Migrate::Auto, Migrate::Manual] {
        let reason = refusal(&url, migrate).await;
        assert!(reason.contains("schema version 9999") && reason.contains("up to 18"), "{reason}");
    }
    execute(
        &url,
        "DELETE FROM antiphon_schema WHERE version > 1; UPDATE antiphon_schema SET checksum = '00'",
    )
    .await;
    let reason = refusal(&url, Migrate::Auto).await;
    assert!(reason.contains("schema version 1") && reason.contains("differs from this build's"), "{reason}");
}

#[tokio::test]
async fn a_store_with_manual_migration_waits_for_the_operator() {
    let url = Postgres::shared_database().await;
    let target: StoreUrl = url.parse().unwrap();
    let reason = refusal(&url, Migrate::Manual).await;
    assert!(reason.contains("antiphon migrate"), "{reason}");
    assert_eq!(
        antiphon_store::pending(&target).await.unwrap(),
        [
            "0001_responses",
            "0002_accounts",
            "0003_admin",
            "0004_keys",
            "0005_usage",
            "0006_limits",
            "0007_replicas",
            "0008_checksums",
            "0009_background",
            "0010_conversations",
            "0011_dashboard",
            "0012_sessions",
            "0013_conversation_bounds",
            "0014_background_sizes",
            "0015_sign_ins",
            "0016_accounts_and_clients",
            "0017_background_checksums",
            "0018_daily_usage"
        ]
    );
    assert_eq!(
        antiphon_store::migrate(&target).await.unwrap(),
        [
            "0001_responses",
            "0002_accounts",
            "0003_admin",
            "0004_keys",
            "0005_usage",
            "0006_limits",
            "0007_replicas",
            "0008_checksums",
            "0009_background",
            "0010_conversations",
            "0011_dashboard",
            "0012_sessions",
            "0013_conversation_bounds",
            "0014_background_sizes",
            "0015_sign_ins",
            "0016_accounts_and_clients",
            "0017_background_checksums",
            "0018_daily_usage"
        ]
    );
    assert!(antiphon_store::pending(&target).await.unwrap().is_empty());
    assert!(antiphon_store::migrate(&target).await.unwrap().is_empty());
    let options = StoreOptions { migrate: Migrate::Manual, ..StoreOptions::default() };
    open_with(&url, options).await.unwrap().record(record(1, None)).await.unwrap();
}

#[tokio::test]
async fn a_database_with_an_earlier_schema_keeps_its_data() {
    let url = Postgres::shared_database().await;
    let store = open(&url).await;
    record_chain(&store, 1, 5, None).await;
    store.close().await;
    execute(
        &url,
        "DROP TABLE accounts, credentials, admin_tokens, sessions, sign_ins, keys, audit, changes, usage_rollups, counters, reservations, replicas, \
         background_turns, background_events, conversations, conversation_items; DROP INDEX responses_by_conversation; \
         ALTER TABLE responses DROP COLUMN checksum, DROP COLUMN body_checksum, DROP COLUMN deletes; \
         ALTER TABLE request_log DROP COLUMN key_id, DROP COLUMN attempts, DROP COLUMN cost_nano_usd, DROP COLUMN estimated, \
           DROP COLUMN sent_us, DROP COLUMN attempt_log, DROP COLUMN reasoning; \
         DROP TABLE outcome_rollups, latency_rollups, account_rollups, key_clients; DROP INDEX request_log_by_outcome, request_log_by_code; \
         DELETE FROM antiphon_schema WHERE version > 1",
    )
    .await;
    assert!(refusal(&url, Migrate::Manual).await.contains("needs version 18"));
    let store = open(&url).await;
    let chain = store.load_chain(&project("p"), whole(5)).await.unwrap();
    assert!(numbers(&chain, (1..=5).rev()));
    assert_eq!(store.list_accounts().await.unwrap(), []);
}

#[tokio::test]
async fn a_missing_database_is_reported_at_once() {
    let url = Postgres::shared_database().await.replace("/test_", "/no_such_");
    let reason = refusal(&url, Migrate::Auto).await;
    assert!(reason.contains("no_such_") && !reason.contains("password"), "{reason}");
}

#[tokio::test]
async fn only_a_database_that_can_store_every_text_is_used() {
    let url = Postgres::shared_database().await;
    let of_encoding = async |encoding: &str| {
        let name = format!("{}_{encoding}", database(&url)).to_lowercase();
        let create = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        execute(&url, &create).await;
        url.replace(database(&url), &name)
    };
    for encoding in ["LATIN1", "WIN1252", "EUC_JP"] {
        let reason = refusal(&of_encoding(encoding).await, Migrate::Auto).await;
        assert!(reason.contains(encoding) && reason.contains("ENCODING 'UTF8'"), "{reason}");
    }
    let store = open(&of_encoding("SQL_ASCII").await).await;
    let mut odd = record(1, None);
    odd.response.turn.model = "模型 \u{1F600}".into();
    odd.items = vec![(ItemId::new("msg_模型").unwrap(), 0)];
    store.record(odd.clone()).await.unwrap();
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), Some(odd.response));
    assert_eq!(store.list_log(9).await.unwrap(), [odd.log]);
}

/// The server accepts the connection and never replies.
#[tokio::test]
async fn a_silent_server_delays_the_start_once() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/a?connect_timeout=8");
    let opened = timeout(Duration::from_secs(15), open_with(&url, StoreOptions::default())).await;
    let store = opened.expect("one attempt, however many connections there are").unwrap();
    assert!(!store.is_available());
    let result = timeout(Duration::from_secs(7), store.record(record(1, None))).await.expect("at once");
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    let result =
        timeout(Duration::from_secs(7), store.load(&project("p"), id(1), NOW)).await.expect("at once");
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_open_one_new_database_at_once_share_it() {
    let url = Postgres::shared_database().await;
    let stores = futures_util::future::join_all((0..4).map(|_| open(&url))).await;
    for (n, store) in (0..).zip(&stores) {
        record_all(store, (0..50).map(|k| record(n * 50 + k, None)).collect()).await;
    }
    for store in &stores {
        for n in 0..200 {
            assert!(store.load(&project("p"), id(n), NOW).await.unwrap().is_some());
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_write_the_same_items_do_not_deadlock() {
    let url = Postgres::shared_database().await;
    let (one, two) = tokio::join!(open(&url), open(&url));
    // Both stores write items with the same ids, in different orders.
    let records = |first: u64| {
        let shared = (0..200).map(move |n| {
            let mut record = record(first + n, None);
            let place = if first == 0 { n } else { 199 - n };
            record.items =
                (0..5).map(|k| (ItemId::new(&format!("msg_{}", (place + k) % 50)).unwrap(), 0)).collect();
            record
        });
        shared.collect::<Vec<_>>()
    };
    let both = async { tokio::join!(record_all(&one, records(0)), record_all(&two, records(1_000))) };
    timeout(LONG, both).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_store_at_a_time_purges() {
    let url = Postgres::shared_database().await;
    let store = open(&url).await;
    record_chain(&store, 1, 20, None).await;
    for n in 1..=20 {
        assert!(store.delete(&project("p"), id(n), NOW).await.unwrap());
    }
    // While another client holds the lock nothing is purged.
    let other = connect(&url).await;
    other.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(x'416e746970757267'::bigint)").await.unwrap();
    assert_eq!(store.purge(&mut PurgeProgress::default(), after(1), None, 100).await.unwrap().responses, 0);
    other.batch_execute("COMMIT").await.unwrap();
    let mut purged = 0;
    eventually("all responses are purged", async || {
        purged += store.purge(&mut PurgeProgress::default(), after(1), None, 100).await.unwrap().responses;
        purged >= 20
    })
    .await;
    assert_eq!(purged, 20);
}

/// Cuts every other connection to the database.
async fn cut(url: &str) {
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    execute(url, others).await;
}

pub(crate) async fn recovered(store: &Arc<dyn Store>) {
    eventually("the store writes again", async || store.check().await.is_ok()).await;
    assert!(store.is_available());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_come_back_and_nothing_acknowledged_is_missing() {
    let url = Postgres::shared_database().await;
    let store = open(&url).await;
    let (mut acknowledged, mut failed) = (Vec::new(), 0);
    for round in 0..4 {
        let mut writing = JoinSet::new();
        for n in round * 1_000..round * 1_000 + 400 {
            let store = Arc::clone(&store);
            writing.spawn(async move {
                tokio::time::sleep(Duration::from_micros(n % 1_000 * 100)).await;
                (n, store.record(record(n, None)).await)
            });
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
        cut(&url).await;
        while let Some(written) = writing.join_next().await {
            match written.unwrap() {
                (n, Ok(_)) => acknowledged.push(n),
                (_, Err(StoreError::Unavailable(_))) => failed += 1,
                (n, Err(error)) => panic!("{n}: {error}"),
            }
        }
        recovered(&store).await;
        // However many of those above the cut has left.
        let after = round * 1_000 + 500..round * 1_000 + 550;
        record_all(&store, after.clone().map(|n| record(n, None)).collect()).await;
        acknowledged.extend(after);
    }
    for n in &acknowledged {
        assert!(store.load(&project("p"), id(*n), NOW).await.unwrap().is_some(), "{n} is missing");
    }
    println!("acknowledged: {}, lost: 0, refused: {failed}", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_may_open_two_connections_writes_on_one_and_reads_on_the_other() {
    let url = Postgres::shared_database().await;
    let (name, role) = (database(&url), format!("two_of_{}", database(&url)));
    execute(
        &url,
        &format!(
            "CREATE ROLE {role} LOGIN CONNECTION LIMIT 2; ALTER DATABASE {name} OWNER TO {role}; \
             GRANT ALL ON SCHEMA public TO {role}"
        ),
    )
    .await;
    let store = open(&url.replace("//postgres@", &format!("//{role}@"))).await;
    recovered(&store).await;
    store.record(record(1, None)).await.unwrap();
    assert!(store.load(&project("p"), id(1), NOW).await.unwrap().is_some());
}

/// As after a failover, for clients of the old primary or of a standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_database_is_unavailable_until_it_writes_again() {
    let url = Postgres::shared_database().await;
    let store = open(&url).await;
    store.record(record(1, None)).await.unwrap();
    let is_read_only = async |word: &str| {
        let alter = format!("ALTER DATABASE {} SET default_transaction_read_only = {word}", database(&url));
        Postgres::shared().execute("postgres", &alter).await;
        cut(&url).await;
    };
    is_read_only("on").await;
    eventually("the store knows that the database only reads", async || {
        match store.record(record(2, None)).await {
            Err(StoreError::Unavailable(reason)) => reason.contains("read-only"),
            other => panic!("{other:?} of a database that only reads"),
        }
    })
    .await;
    assert!(!store.is_available());
    let read = async || store.load(&project("p"), id(1), NOW).await.ok().flatten();
    eventually("the response is read", read).await;
    is_read_only("off").await;
    recovered(&store).await;
    store.record(record(2, None)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_database_can_not_store_is_refused_alone() {
    let store = open(&Postgres::shared_database().await).await;
    let mut odd = record(1, None);
    odd.response.turn.model = "a\0b".into();
    let (odd, even) = tokio::join!(store.record(odd), store.record(record(2, None)));
    assert!(matches!(odd, Err(StoreError::Refused(_))), "{odd:?}");
    even.unwrap();
    let mut row = record(3, None).log;
    row.model = "\0".into();
    store.append_log(row);
    eventually("the row is written", async || {
        store.list_log(10).await.unwrap().iter().any(|row| row.model == "\u{fffd}")
    })
    .await;
    assert!(store.is_available());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_held_too_long_causes_a_deadline_and_then_recovery() {
    let database = InPostgres::new();
    let url = database.url().await;
    let options = StoreOptions { commit_timeout: Duration::from_secs(4), ..StoreOptions::default() };
    let store = open_with(url, options).await.unwrap();
    let other = connect(url).await;
    other.batch_execute("BEGIN; LOCK TABLE responses IN EXCLUSIVE MODE").await.unwrap();
    let result = store.record(record(1, None)).await;
    assert!(matches!(result, Err(StoreError::Deadline(_))), "{result:?}");
    assert!(!store.is_available());
    assert_eq!(store.load(&project("p"), id(7), NOW).await.unwrap(), None, "reading goes on");
    other.batch_execute("ROLLBACK").await.unwrap();
    recovered(&store).await;
    store.record(record(9, None)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_has_lost_is_forgotten_with_the_first_turn_that_continues_it() {
    let url = Postgres::shared_database().await;
    let chains = Chains::new(open(&url).await, 1 << 20);
    let load = async |n| {
        chains.learn_deletions(NOW).await.unwrap();
        chains.load(&project("p"), id(n), NOW, 100).await.unwrap()
    };
    chains.record(record(1, None), None).await.unwrap();
    for n in [2, 3] {
        chains.record(record(n, Some((1, 1))), load(1).await).await.unwrap();
    }
    execute(&url, "DELETE FROM responses WHERE depth = 2").await;
    let lost = load(2).await;
    assert!(lost.is_some(), "it is in memory");
    let child = Record { needs_parent: true, ..record(4, Some((2, 2))) };
    assert_eq!(chains.record(child, lost).await.unwrap(), Appended::NoParent);
    for (n, is_there) in [(1, true), (2, false), (3, false), (4, false)] {
        assert_eq!(load(n).await.is_some(), is_there, "{n}");
    }
}
