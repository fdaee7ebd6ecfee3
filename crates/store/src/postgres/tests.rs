use std::time::Duration;

use antiphon_testkit::Postgres;
use tokio::time::timeout;
use tokio_postgres::NoTls;

use super::conversations::{INSERT_ITEMS, LOCK_ROWS};
use super::insert::INSERT;
use super::limits::{CHANGE, RESERVE, SETTLE, SWEEP_EXPIRED, SWEEP_OTHERS, SWEEP_REPLICA};
use super::purge::{DELETE_ITEMS, DELETE_LOG, DELETE_RESPONSES, TRY_LOCK};
use super::read::{FIND_ITEMS, LIST_DELETED, LOAD_CHAIN, LOAD_ITEMS, MEASURE_ITEMS};
use super::schema::{HAS_VERSIONS, LOCK};
use super::*;
use crate::Migrate;
use crate::request_log::NEWEST_TO_PURGE;
use crate::usage::PURGE_ROLLED_UP;
use crate::{background, conversations, responses};

/// Statements that must use an index.
const INDEXED: [&str; 15] = [
    INSERT_ITEMS,
    LOCK_ROWS,
    SETTLE,
    SWEEP_EXPIRED,
    SWEEP_OTHERS,
    SWEEP_REPLICA,
    LIST_DELETED,
    INSERT,
    DELETE_ITEMS,
    DELETE_LOG,
    DELETE_RESPONSES,
    FIND_ITEMS,
    LOAD_CHAIN,
    LOAD_ITEMS,
    MEASURE_ITEMS,
];
const OTHERS: [&str; 7] = [
    RESERVE,
    CHANGE,
    TRY_LOCK,
    HAS_VERSIONS,
    LOCK,
    crate::store::POSTGRES_DATABASE,
    crate::store::POSTGRES_TABLES,
];

/// A database with a schema.
async fn client() -> tokio_postgres::Client {
    let url = Postgres::shared_database().await;
    let StoreUrl::Postgres(target) = url.parse().unwrap() else { panic!("{url}") };
    assert_eq!(
        migrate(&target).await.unwrap(),
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
    assert!(pending(&target).await.unwrap().is_empty());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let client = client().await;
    for text in [crate::examine::POSTGRES_STATEMENT]
        .into_iter()
        .chain(INDEXED)
        .chain(OTHERS)
        .chain(crate::sql::shared_statements())
    {
        let prepared = client.prepare(text).await;
        assert!(prepared.is_ok(), "{text}: {:?}", prepared.err());
    }
}

#[tokio::test]
async fn statements_that_copy_can_be_prepared_and_follow_the_key() {
    let client = client().await;
    client
        .batch_execute(
            "SET enable_seqscan = off; SET enable_sort = off; SET plan_cache_mode = force_generic_plan",
        )
        .await
        .unwrap();
    for table in &crate::copy::TABLES {
        client.prepare(&copy::insert_statement(table)).await.unwrap();
        client.prepare(&table.count_statement()).await.unwrap();
        for (n, is_first) in [true, false].into_iter().enumerate() {
            for (kind, text) in [
                ("keys", copy::keys_statement(table, is_first)),
                ("page", copy::page_statement(table, is_first)),
            ] {
                let nulls = vec!["NULL"; client.prepare(&text).await.unwrap().params().len()].join(", ");
                let name = format!("{kind}_{}_{n}", table.name);
                let explain = format!("PREPARE {name} AS {text}; EXPLAIN EXECUTE {name} ({nulls})");
                for message in client.simple_query(&explain).await.unwrap() {
                    let tokio_postgres::SimpleQueryMessage::Row(row) = message else { continue };
                    let step = row.get(0).unwrap();
                    assert!(!step.contains("Sort") && !step.contains("Seq Scan"), "{step} in {text}");
                }
            }
        }
    }
}

#[tokio::test]
async fn every_column_of_every_table_is_copied() {
    let client = client().await;
    let columns = "SELECT table_name::text, column_name::text FROM information_schema.columns \
         WHERE table_schema = 'public' AND table_name NOT IN ('antiphon_schema', 'replicas', 'sign_ins')";
    let rows = client.query(columns, &[]).await.unwrap();
    crate::copy::assert_all_are_copied(&rows.iter().map(|row| (row.get(0), row.get(1))).collect());
}

#[tokio::test]
async fn a_copy_reads_bounded_pages() {
    let StoreUrl::Postgres(target) = Postgres::shared_database().await.parse().unwrap() else { panic!() };
    let side = copy::target(&target).await.unwrap();
    crate::copy::check_pages(&*side).await;
}

/// The planner has no statistics in a database that was filled just now.
#[tokio::test]
async fn chains_and_purges_follow_indices_in_a_table_without_statistics() {
    let client = client().await;
    client
        .batch_execute(
            "INSERT INTO responses (id, parent_id, depth, created_at, expires_at, status, project, account, boundary, \
             model, input, output, body) \
             SELECT lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(n - 1), 32, '0')::uuid, 1, n, n, 0, 'p', '', '', '', \
             repeat('x', 100)::bytea, '', '' FROM generate_series(1, 100000) n",
        )
        .await
        .unwrap();
    let from = "'00000000000000000000000000000900', 'p', NULL, 10000";
    let leaves = "1000, ARRAY['00000000000000000000000000000900'::uuid], ARRAY['p'], 500";
    for (name, text, arguments) in [("chain", LOAD_CHAIN, from), ("purge", DELETE_RESPONSES, leaves)] {
        let explain = format!("PREPARE {name} AS {text}; EXPLAIN EXECUTE {name} ({arguments})");
        for message in client.simple_query(&explain).await.unwrap() {
            let tokio_postgres::SimpleQueryMessage::Row(row) = message else { continue };
            let step = row.get(0).unwrap();
            assert!(!step.contains("Seq Scan"), "{step} in {text}");
        }
    }
}

/// The planner prefers to scan an empty table, so scans are disabled.
#[tokio::test]
async fn no_statement_needs_to_read_a_table_from_end_to_end() {
    let client = client().await;
    client.batch_execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan").await.unwrap();
    let shared = [NEWEST_TO_PURGE, PURGE_ROLLED_UP]
        .into_iter()
        .chain(responses::STATEMENTS)
        .chain(crate::purge::STATEMENTS)
        .chain(background::STATEMENTS)
        .chain(conversations::INDEXED);
    for (n, text) in INDEXED.into_iter().chain(shared).enumerate() {
        let types = client.prepare(text).await.unwrap().params().len();
        let nulls = vec!["NULL"; types].join(", ");
        let explain = format!("PREPARE s{n} AS {text}; EXPLAIN EXECUTE s{n} ({nulls})");
        for message in client.simple_query(&explain).await.unwrap() {
            let tokio_postgres::SimpleQueryMessage::Row(row) = message else { continue };
            let step = row.get(0).unwrap();
            assert!(!step.contains("Seq Scan"), "{step} in {text}");
        }
    }
}

#[tokio::test]
async fn a_query_that_was_given_up_keeps_no_other_waiting() {
    let url = Postgres::shared_database().await;
    let StoreUrl::Postgres(target) = url.parse().unwrap() else { panic!("{url}") };
    let connector = || Connector::new(&target).unwrap();
    let context = Arc::new(ConnectContext::new(connector(), Schema::new(connector(), Migrate::Auto)));
    let pool = Pool::start(&context, Purpose::Reading, 2, 2, Duration::from_secs(180));
    pool.settled().await.unwrap();
    let run = async |sql: &str| {
        let session = pool.acquire(None, 0).await.unwrap();
        session.run(session.client().query_typed_one(sql, &[])).await.unwrap().get::<_, i32>(0)
    };
    let process = run("SELECT pg_backend_pid()").await;
    assert_eq!(run("SELECT pg_backend_pid()").await, process, "the first connection is preferred");
    let given_up = timeout(Duration::from_millis(50), run("SELECT 1 FROM pg_sleep(600)")).await;
    assert!(given_up.is_err());
    assert_ne!(run("SELECT pg_backend_pid()").await, process);
}
