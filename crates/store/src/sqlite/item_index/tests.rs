use std::path::Path;

use antiphon_protocol::id::ResponseId;
use futures_util::future::join_all;

use super::super::tests::record_of;
use super::super::{SqliteStore, copy, open};
use super::*;
use crate::copy::{Bounds, TABLES, Table};
use crate::url::SqliteTarget;
use crate::{FoundItems, PurgeProgress, Record, Responses, Store, StoreOptions, Timestamp};

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_000_000_000);

fn project() -> ProjectId {
    ProjectId::new("p")
}

fn target(directory: &Path) -> SqliteTarget {
    SqliteTarget::File(directory.join("a.db"))
}

async fn serve(directory: &Path) -> SqliteStore {
    let options = StoreOptions { serves: true, ..StoreOptions::default() };
    SqliteStore::open(&target(directory), options).await.unwrap()
}

fn id(n: u64) -> ResponseId {
    ResponseId::mint(NOW.unix_ms().unsigned_abs() + n, &[7; 10])
}

/// Scattered as those of upstreams are.
fn item(n: u64) -> ItemId {
    ItemId::new(&format!("msg_{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).unwrap()
}

/// Its input are these items.
fn turn(n: u64, items: impl IntoIterator<Item = u64>) -> Record {
    let items: Vec<(ItemId, u32)> = items.into_iter().map(item).zip(0..).collect();
    let input: Vec<String> = items.iter().map(|(id, _)| format!(r#"{{"id":"{}"}}"#, id.as_str())).collect();
    Record { items, ..record_of(id(n), format!("[{}]", input.join(",")).into()) }
}

async fn is_found(store: &SqliteStore, n: u64) -> bool {
    let wanted = format!(r#"{{"id":"{}"}}"#, item(n).as_str());
    match store.load_items(&project(), &[item(n)], NOW, 1 << 20).await.unwrap() {
        FoundItems::All(found) => found[0].as_ref().is_some_and(|found| *found.item == *wanted.as_bytes()),
        FoundItems::TooLarge { .. } => false,
    }
}

/// The entries of the index, and those that wait for it.
fn rows(directory: &Path) -> (u64, u64) {
    let connection = Connection::open(directory.join("a.db")).unwrap();
    let count = |table| {
        let count = format!("SELECT count(*) FROM {table}");
        connection.query_row(&count, (), |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
    };
    (count("items"), count("new_items"))
}

/// The files as a process leaves them that is killed.
fn as_after_a_kill(directory: &Path) -> tempfile::TempDir {
    let copied = tempfile::tempdir().unwrap();
    for name in ["a.db", "a.db-wal"] {
        std::fs::copy(directory.join(name), copied.path().join(name)).unwrap();
    }
    copied
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_are_found_before_while_and_after_they_move_to_the_index() {
    const PER_TURN: u64 = MAX_APPENDED as u64;
    const TURNS: u64 = 3 * GENERATION as u64 / PER_TURN;
    let directory = tempfile::tempdir().unwrap();
    let store = serve(directory.path()).await;
    for first in (0..TURNS).step_by(32) {
        let turns = (first..first + 32).map(|n| turn(n, n * PER_TURN..(n + 1) * PER_TURN));
        for recorded in join_all(turns.map(|turn| store.record(turn))).await {
            recorded.unwrap();
        }
        for n in [0, first * PER_TURN / 2, first * PER_TURN, (first + 32) * PER_TURN - 1] {
            assert!(is_found(&store, n).await, "item {n} after {first} turns");
        }
    }
    let (indexed, waiting) = rows(directory.path());
    assert!(indexed >= GENERATION as u64, "{indexed} moved");
    assert!(waiting <= 2 * GENERATION as u64, "{waiting} wait");
    assert!(!is_found(&store, TURNS * PER_TURN).await, "an item that is none");
    store.close().await;
    assert_eq!(rows(directory.path()), (TURNS * PER_TURN, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_no_new_item() {
    let directory = tempfile::tempdir().unwrap();
    let store = serve(directory.path()).await;
    for n in 0..20 {
        store.record(turn(n, [n])).await.unwrap();
    }
    assert_eq!(rows(directory.path()), (0, 20));
    let killed = as_after_a_kill(directory.path());
    let next = serve(killed.path()).await;
    for n in 0..20 {
        assert!(is_found(&next, n).await, "item {n}");
    }
    next.close().await;
    assert_eq!(rows(killed.path()), (20, 0));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purged_items_leave_no_entry() {
    let directory = tempfile::tempdir().unwrap();
    let store = serve(directory.path()).await;
    store.record(turn(0, [0, 1])).await.unwrap();
    store.record(turn(1, [1, 2])).await.unwrap();
    assert!(store.delete(&project(), id(1), NOW).await.unwrap());
    let purged = store.purge(&mut PurgeProgress::default(), NOW, None, 10).await.unwrap();
    assert_eq!(purged.responses, 1);
    assert!(is_found(&store, 0).await && !is_found(&store, 2).await);
    let killed = as_after_a_kill(directory.path());
    store.close().await;
    // Item 1 is in the response that remains as well.
    assert_eq!(rows(directory.path()), (2, 0));

    let next = serve(killed.path()).await;
    assert!(is_found(&next, 0).await && !is_found(&next, 2).await);
    next.close().await;
    assert_eq!(rows(killed.path()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_response_with_an_item_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = serve(directory.path()).await;
    let with_many = |n, first| turn(n, std::iter::once(0).chain(first..first + MAX_APPENDED as u64));
    store.record(with_many(0, 1_000)).await.unwrap();
    store.record(turn(1, [0])).await.unwrap();
    let place = |new: &NewItems| {
        let connection = Connection::open(directory.path().join("a.db")).unwrap();
        new.find(&connection, &project(), &item(0)).unwrap().unwrap().response
    };
    assert_eq!(place(&store.new_items), id(1).uuid());
    store.record(with_many(2, 2_000)).await.unwrap();
    assert_eq!(place(&store.new_items), id(2).uuid(), "the older entry still waits");
    store.close().await;
    assert_eq!(place(&NewItems::default()), id(2).uuid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_the_new_items() {
    let directory = tempfile::tempdir().unwrap();
    let store = serve(directory.path()).await;
    for n in 0..10 {
        store.record(turn(n, [n])).await.unwrap();
    }
    store.close().await;
    let store = serve(directory.path()).await;
    // Items 5 to 9 are recorded again.
    for n in 5..15 {
        store.record(turn(100 + n, [n])).await.unwrap();
    }
    let items: &'static Table = TABLES.iter().find(|table| table.name == "items").unwrap();
    let side = copy::source(&target(directory.path())).await.unwrap();
    for _ in 0..2 {
        assert_eq!(side.count(items).await.unwrap(), 15);
        let (mut after, mut read) = (None, Vec::new());
        loop {
            let page = side.page(items, after.take(), Bounds { rows: 4, bytes: 1 << 20 }).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(items.key_of(last).to_vec());
            read.extend(page);
        }
        let mut expected: Vec<_> = (0..15).map(|n| (item(n), id(if n < 5 { n } else { 100 + n }))).collect();
        expected.sort();
        let expected = expected.iter().map(|(item, response)| (item.as_str(), response.uuid()));
        let read = read.iter().map(|row| match &row.0[..] {
            [crate::sql::Cell::Text(item), _, crate::sql::Cell::Id(response), _] => {
                (item.as_str(), *response)
            }
            other => panic!("{other:?}"),
        });
        assert!(read.eq(expected));
        side.renew().await.unwrap();
    }
    store.close().await;
}

/// Pages of a copy must not sort the index each time.
#[test]
fn the_view_that_stands_for_the_index_is_read_in_its_order() {
    let opened = open::open(&SqliteTarget::Memory, &StoreOptions::default()).unwrap();
    let connection = lock(&opened.writer);
    connection.execute_batch(COMPLETE).unwrap();
    let items = TABLES.iter().find(|table| table.name == "items").unwrap();
    for is_first in [true, false] {
        let text = format!("EXPLAIN QUERY PLAN {}", copy::page_statement(items, is_first));
        let mut plan = connection.prepare(&text).unwrap();
        let mut rows = plan.raw_query();
        while let Some(row) = rows.next().unwrap() {
            let step: String = row.get("detail").unwrap();
            assert!(!step.contains("TEMP B-TREE"), "{step} in {text}");
        }
    }
}
