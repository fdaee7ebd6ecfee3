use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use antiphon_protocol::id::ResponseId;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Executor, Row, SqlSafeStr};

use super::insert::{INSERT_ITEMS, INSERT_LOG, INSERT_RESPONSES};
use super::purge::{DELETE_ITEM, DELETE_LOG, DELETE_RESPONSES, DOOMED};
use super::read::{FIND_ITEMS, LIST_LOG, LOAD, LOAD_CHAIN, LOAD_ITEMS};
use super::rows::Rows;
use super::write::{CHECK, DELETE};
use super::*;
use crate::{StoredResponse, StoredTurn};

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_000_000_000);

fn all_texts() -> Vec<String> {
    let fixed =
        [CHECK, DELETE, DELETE_ITEM, DELETE_LOG, DELETE_RESPONSES, DOOMED, LIST_LOG, LOAD, LOAD_CHAIN];
    let repeated: [&Rows; 5] = [&INSERT_RESPONSES, &INSERT_ITEMS, &INSERT_LOG, &FIND_ITEMS, &LOAD_ITEMS];
    let repeated = repeated.into_iter().flat_map(|rows| {
        [1, 2, rows.max].map(|values| {
            let mut text = String::new();
            rows.write(values, &mut text);
            text
        })
    });
    fixed.into_iter().map(str::to_owned).chain(repeated).collect()
}

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let opened = open::open(&SqliteTarget::Memory, &StoreOptions::default()).await.unwrap();
    let mut connection = opened.readers.acquire().await.unwrap();
    for text in all_texts() {
        let prepared = connection.prepare(AssertSqlSafe(text.clone()).into_sql_str()).await;
        assert!(prepared.is_ok(), "{text}: {:?}", prepared.err());
    }
}

#[tokio::test]
async fn no_statement_reads_a_table_from_end_to_end() {
    let opened = open::open(&SqliteTarget::Memory, &StoreOptions::default()).await.unwrap();
    let tables = ["responses", "items", "request_log", "r", "p", "c", "i"];
    for text in all_texts().into_iter().filter(|text| text != CHECK && text != LIST_LOG) {
        let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}")));
        for row in plan.fetch_all(&opened.readers).await.unwrap() {
            let step: String = row.get("detail");
            let is_scan = tables.iter().any(|table| step == format!("SCAN {table}"));
            assert!(!is_scan, "{step} in {text}");
        }
    }
}

fn record(n: u8) -> Record {
    let id = ResponseId::mint(u64::from(n), &[n; 10]);
    let project = ProjectId::new("p");
    let turn = StoredTurn {
        id,
        parent: None,
        depth: 1,
        status: Status::Completed,
        account: "a".into(),
        boundary: "b".into(),
        upstream_id: None,
        model: "m".into(),
        expires_at: None,
        input: vec![b'x'; 10_000].into(),
        referenced: Vec::new(),
        output: "[]".into(),
    };
    let log = LogRow {
        at: NOW,
        project: project.clone(),
        response: id,
        account: None,
        model: "m".into(),
        transport: "http".into(),
        outcome: "completed".into(),
        http_status: 200,
        code: None,
        depth: 1,
        input_tokens: 0,
        cached_tokens: 0,
        output_tokens: 0,
        reasoning_tokens: 0,
        duration: Duration::ZERO,
        first_event: None,
    };
    let response = StoredResponse { turn, created_at: NOW, body: "{}".into() };
    Record { project, response, items: Vec::new(), log }
}

/// A store whose disk holds as many pages as the number says, for connections that are opened from then on.
async fn store_on_small_disk(path: &std::path::Path, pages: &Arc<AtomicU32>) -> SqliteStore {
    let target = SqliteTarget::File(path.to_owned());
    let opened = open::open(&target, &StoreOptions::default()).await.unwrap();
    let pages = Arc::clone(pages);
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .after_connect(move |connection, _| {
            let limit = format!("PRAGMA max_page_count = {}", pages.load(Ordering::Relaxed));
            Box::pin(async move { connection.execute(AssertSqlSafe(limit)).await.map(|_| ()) })
        })
        .connect_with(SqliteConnectOptions::new().filename(path))
        .await
        .unwrap();
    opened.writer.close().await;
    let engine = SqliteEngine::new(writer, opened.readers.clone(), true);
    SqliteStore { group: Group::start(engine, Duration::from_secs(60)), readers: opened.readers }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_over_when_there_is_space_again() {
    let directory = tempfile::tempdir().unwrap();
    let pages = Arc::new(AtomicU32::new(60));
    let store = store_on_small_disk(&directory.path().join("a.db"), &pages).await;
    let results = futures_util::future::join_all((100..200).map(|n| store.record(record(n)))).await;
    let too_large = results.iter().filter(|result| matches!(result, Err(StoreError::Unavailable(_)))).count();
    assert!(too_large > 50 && !store.is_available());
    let mut written = 0;
    while store.record(record(written)).await.is_ok() {
        assert!(store.is_available());
        written += 1;
    }
    assert!(written > 5 && !store.is_available());
    assert!(store.record(record(written)).await.is_err());
    assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))));
    let project = ProjectId::new("p");
    let id = |n| record(n).response.turn.id;
    assert!(store.load(&project, id(0), NOW).await.unwrap().is_some(), "what is there can be read");

    assert!(store.delete(&project, id(0), NOW).await.unwrap());
    assert!(store.is_available(), "deleting needs no space");
    assert_eq!(store.purge(NOW, None, 10).await.unwrap().responses, 1);
    store.record(record(written)).await.unwrap();
    assert!(store.record(record(written + 1)).await.is_err());

    pages.store(10_000, Ordering::Relaxed);
    store.check().await.unwrap();
    assert!(store.is_available());
    let results = futures_util::future::join_all((200..250).map(|n| store.record(record(n)))).await;
    assert!(results.iter().all(Result::is_ok));
    store.close().await;
}
