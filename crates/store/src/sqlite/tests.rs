use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use antiphon_protocol::id::ResponseId;

use super::conversations::INSERT_ITEM as INSERT_CONVERSATION_ITEM;
use super::insert::{HAS_RESPONSE, INSERT_LOG, INSERT_RESPONSE};
use super::item_index;
use super::limits::{CHANGE, LOOK, RESERVE, SETTLE, SWEEP_EXPIRED, SWEEP_OTHERS, SWEEP_REPLICA};
use super::purge::{
    ADD_TO_ACCOUNTS, ADD_TO_LATENCIES, ADD_TO_OUTCOMES, ADD_TO_SUMS, DELETE_LOG, DELETE_RESPONSE, PURGEABLE,
};
use super::read::{LIST_DELETED, LOAD_CHAIN, LOAD_ITEMS};
use super::readers::lock;
use super::*;
use crate::request_log::NEWEST_TO_PURGE;
use crate::{Durability, Json, LogRow, Status, StoredResponse, StoredTurn};

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_000_000_000);

const ALL: [&str; 30] = [
    crate::examine::SQLITE_STATEMENT,
    INSERT_CONVERSATION_ITEM,
    ADD_TO_SUMS,
    ADD_TO_OUTCOMES,
    ADD_TO_LATENCIES,
    ADD_TO_ACCOUNTS,
    CHANGE,
    LOOK,
    RESERVE,
    SETTLE,
    SWEEP_EXPIRED,
    SWEEP_OTHERS,
    SWEEP_REPLICA,
    DELETE_LOG,
    DELETE_RESPONSE,
    PURGEABLE,
    item_index::APPEND,
    item_index::INSERT,
    item_index::INSERT_ALL,
    item_index::FIND,
    item_index::DELETE,
    item_index::LAST_APPENDED,
    item_index::DELETE_MOVED,
    item_index::NEW_ITEMS,
    HAS_RESPONSE,
    INSERT_LOG,
    INSERT_RESPONSE,
    LIST_DELETED,
    LOAD_CHAIN,
    LOAD_ITEMS,
];

fn open_in_memory() -> Opened {
    open::open(&SqliteTarget::Memory, &StoreOptions::default()).unwrap()
}

#[test]
fn every_statement_can_be_prepared() {
    let opened = open_in_memory();
    for text in ALL.into_iter().chain(crate::sql::shared_statements()) {
        let connection = lock(&opened.writer);
        let prepared = connection.prepare(text);
        assert!(prepared.is_ok(), "{text}: {:?}", prepared.err());
    }
}

/// SQLite numbers parameters by that order, whatever their names say.
#[test]
fn parameters_are_numbered_in_the_order_of_their_first_use() {
    for text in crate::sql::shared_statements() {
        let mut highest = 0;
        for rest in text.split('$').skip(1) {
            let digits = rest.len() - rest.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
            let number: u32 = rest[..digits].parse().unwrap();
            assert!(number <= highest + 1, "${number} comes before ${} in {text}", highest + 1);
            highest = highest.max(number);
        }
    }
}

#[test]
fn statements_that_copy_can_be_prepared_and_follow_the_key() {
    let opened = open_in_memory();
    let connection = lock(&opened.writer);
    for table in &crate::copy::TABLES {
        connection.prepare(&copy::insert_statement(table)).unwrap();
        connection.prepare(&table.count_statement()).unwrap();
        for is_first in [true, false] {
            let text = format!("EXPLAIN QUERY PLAN {}", copy::page_statement(table, is_first));
            let mut plan = connection.prepare(&text).unwrap();
            let mut rows = plan.raw_query();
            while let Some(row) = rows.next().unwrap() {
                let step: String = row.get(3).unwrap();
                assert!(!step.contains("TEMP B-TREE"), "{step} in {text}");
            }
        }
    }
}

#[test]
fn every_column_of_every_table_is_copied() {
    let opened = open_in_memory();
    let connection = lock(&opened.writer);
    let mut statement = connection
        .prepare(
            "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c \
             WHERE t.type = 'table' AND t.name NOT IN ('antiphon_schema', 'replicas', 'sign_ins', 'new_items')",
        )
        .unwrap();
    let columns = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    crate::copy::assert_all_are_copied(&columns.map(Result::unwrap).collect());
}

#[test]
fn the_documentation_names_every_table() {
    let page = include_str!("../../../../docs/storage.md");
    let (_, list) = page.split_once("All tables belong together:").unwrap();
    let mut named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    named.sort_unstable();
    let opened = open_in_memory();
    let connection = lock(&opened.writer);
    let mut tables =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
    let tables: Vec<String> = tables.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(named, tables);
}

#[tokio::test]
async fn a_copy_reads_bounded_pages() {
    let directory = tempfile::tempdir().unwrap();
    let side = copy::target(&SqliteTarget::File(directory.path().join("a.db"))).await.unwrap();
    crate::copy::check_pages(&*side).await;
}

#[test]
fn no_statement_reads_a_table_from_end_to_end() {
    let opened = open_in_memory();
    let connection = lock(&opened.writer);
    let tables = [
        "responses",
        "items",
        "request_log",
        "conversations",
        "conversation_items",
        "usage_rollups",
        "outcome_rollups",
        "latency_rollups",
        "account_rollups",
        "key_clients",
        "l",
        "k",
        "counters",
        "reservations",
        "r",
        "p",
        "c",
        "i",
    ];
    let shared = crate::responses::STATEMENTS.into_iter().chain(crate::usage::STATEMENTS);
    let shared = shared.chain(crate::overview::STATEMENTS).chain(crate::log_search::STATEMENTS);
    let shared = shared.chain(crate::inspection::STATEMENTS).chain(crate::account_sums::STATEMENTS);
    let shared = shared.chain(crate::key_clients::STATEMENTS);
    let shared = shared.chain(crate::conversations::INDEXED);
    for text in ALL.into_iter().chain(shared).chain([NEWEST_TO_PURGE]) {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
        // Arguments that are not bound are null.
        let mut rows = plan.raw_query();
        while let Some(row) = rows.next().unwrap() {
            let step: String = row.get("detail").unwrap();
            let is_scan = tables.iter().any(|table| step == format!("SCAN {table}"));
            assert!(!is_scan, "{step} in {text}");
        }
    }
}

fn record(n: u8) -> Record {
    record_of(ResponseId::mint(u64::from(n), &[n; 10]), vec![b'x'; 12_000].into())
}

pub(super) fn record_of(id: ResponseId, input: Json) -> Record {
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
        input,
        referenced: Vec::new(),
        output: "[]".into(),
        deletes: None,
    };
    let log = LogRow::bare(NOW, id);
    let response = StoredResponse { turn, created_at: NOW, body: "{}".into() };
    Record { project, response, items: Vec::new(), log, settlement: None, append: None, needs_parent: false }
}

/// A store on a disk of this many pages. A change applies to connections opened after it.
fn store_on_small_disk(path: &std::path::Path, pages: &Arc<AtomicU32>) -> SqliteStore {
    let target = SqliteTarget::File(path.to_owned());
    let opened = open::open(&target, &StoreOptions::default()).unwrap();
    let pages = Arc::clone(pages);
    let mut open = open::opener(path.to_owned(), Durability::Full);
    let mut opener: open::Opener = Box::new(move || {
        let connection = open()?;
        lock(&connection).pragma_update(None, "max_page_count", pages.load(Ordering::Relaxed))?;
        Ok(connection)
    });
    let writer = opener().unwrap();
    SqliteStore::start(Opened { writer, opener: Some(opener), ..opened }, Duration::from_secs(60)).unwrap()
}

/// The size of an empty database.
fn schema_pages() -> u32 {
    let opened = open_in_memory();
    let connection = lock(&opened.writer);
    connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_work_again_when_a_full_disk_has_space() {
    let directory = tempfile::tempdir().unwrap();
    let pages = Arc::new(AtomicU32::new(schema_pages() + 53));
    let store = store_on_small_disk(&directory.path().join("a.db"), &pages);
    let mut written = 0;
    while store.record(record(written)).await.is_ok() {
        assert!(store.is_available());
        written += 1;
    }
    assert!(written > 5 && !store.is_available());
    assert!(store.record(record(written)).await.is_err());
    let checked = store.check().await;
    assert!(matches!(checked, Err(StoreError::Unavailable(_))), "{checked:?}");
    let project = ProjectId::new("p");
    let id = |n| record(n).response.turn.id;
    assert!(store.load(&project, id(0), NOW).await.unwrap().is_some(), "reads still work");

    assert!(store.delete(&project, id(0), NOW).await.unwrap());
    assert!(store.is_available(), "deleting this row needs no page more");
    assert_eq!(store.purge(&mut PurgeProgress::default(), NOW, None, 10).await.unwrap().responses, 1);
    store.record(record(written)).await.unwrap();
    assert!(store.record(record(written + 1)).await.is_err());

    pages.store(10_000, Ordering::Relaxed);
    store.check().await.unwrap();
    assert!(store.is_available());
    let results = futures_util::future::join_all((200..250).map(|n| store.record(record(n)))).await;
    assert!(results.iter().all(Result::is_ok));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_write_ahead_log_starts_over_while_commits_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let options = StoreOptions { durability: Durability::Normal, ..StoreOptions::default() };
    let store = SqliteStore::open(&SqliteTarget::File(path.clone()), options).await.unwrap();
    for n in 0..220 {
        let mut record = record(n);
        record.response.turn.input = vec![b'x'; 1 << 20].into();
        store.record(record).await.unwrap();
    }
    let size = |path: &str| std::fs::metadata(directory.path().join(path)).unwrap().len();
    assert!(size("a.db-wal") < 150 << 20, "{} bytes of log", size("a.db-wal"));
    assert!(size("a.db") > 60 << 20, "{} bytes of database", size("a.db"));
    store.close().await;
    assert!(size("a.db") > 220 << 20, "{} bytes of database", size("a.db"));
}
