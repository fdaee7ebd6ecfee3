//! Damaged rows: an error that names the response, never another's content, and never a silent difference.

use std::path::Path;
use std::sync::Arc;

use antiphon_protocol::id::ItemId;
use antiphon_store::{
    BackgroundEnd, BackgroundResult, EventChunk, FoundItems, Status, Store, StoreError, StoreOptions,
    StoredResponse, StoredTurn,
};
use antiphon_testkit::Postgres;
use bytes::Bytes;
use tempfile::TempDir;

use crate::background::{end, limits, queued};
use crate::fixture::{
    NOW, id, log_row, patient, project, record, record_all, record_chain, record_of, turn, whole,
};

/// A database that others can change.
pub(crate) enum Database {
    File(TempDir),
    Server(String),
}

impl Database {
    pub(crate) async fn each() -> [Self; 2] {
        [Self::File(tempfile::tempdir().unwrap()), Self::Server(Postgres::shared_database().await)]
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::File(directory) => format!("sqlite://{}/a.db", directory.path().display()),
            Self::Server(url) => url.clone(),
        }
    }

    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        antiphon_store::open(&self.url().parse().unwrap(), patient()).await.unwrap()
    }

    /// Once it is closed, its index has all items.
    pub(crate) async fn serve(&self) -> Arc<dyn Store> {
        let options = StoreOptions { serves: true, ..patient() };
        antiphon_store::open(&self.url().parse().unwrap(), options).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        match self {
            Self::File(directory) => {
                rusqlite::Connection::open(directory.path().join("a.db"))
                    .unwrap()
                    .execute_batch(sql)
                    .unwrap();
            }
            Self::Server(url) => {
                Postgres::shared().execute(url.rsplit('/').next().unwrap(), sql).await;
            }
        }
    }

    pub(crate) fn bytes(&self, text: &str) -> String {
        let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::File(_) => format!("X'{digits}'"),
            Self::Server(_) => format!("'\\x{digits}'::bytea"),
        }
    }

    /// A condition that is true for the n-th response.
    pub(crate) fn is(&self, n: u64) -> String {
        let uuid = id(n).uuid();
        match self {
            Self::File(_) => format!("id = X'{}'", uuid.simple()),
            Self::Server(_) => format!("id = '{uuid}'"),
        }
    }
}

fn assert_names<T: std::fmt::Debug>(result: &Result<T, StoreError>, n: u64, what: &str) {
    let Err(StoreError::Corrupt(reason)) = result else { panic!("{what}: {result:?}") };
    assert!(reason.contains(&id(n).to_string()) && !reason.contains("content"), "{what}: {reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_value_is_an_error_that_names_the_response() {
    for database in Database::each().await {
        let (items, other_items) = (database.bytes("[{}]"), database.bytes("[]"));
        let body = database.bytes("\0{}");
        let positions = database.bytes("[0]");
        let changes = [
            ("input", &*items),
            ("output", &*other_items),
            ("referenced", &*positions),
            ("account", "'other'"),
            ("boundary", "'other'"),
            ("model", "'other'"),
            ("upstream_id", "NULL"),
            ("status", "1"),
            ("depth", "3"),
            ("parent_id", "NULL"),
            ("body", &*body),
            ("created_at", "7"),
        ];
        let store = database.open().await;
        for (n, (column, value)) in (0..).zip(changes) {
            let first = 1_000 + 10 * n;
            record_chain(&store, first, 3, None).await;
            store.record(record(first + 5, Some((first, 1)))).await.unwrap();
            let damaged = first + 1;
            database
                .execute(&format!("UPDATE responses SET {column} = {value} WHERE {}", database.is(damaged)))
                .await;
            assert_names(&store.load(&project("p"), id(damaged), NOW).await, damaged, column);
            let is_of_body = matches!(column, "body" | "created_at");
            let chain = store.load_chain(&project("p"), whole(first + 2)).await;
            let item = ItemId::new(&format!("msg_{damaged}")).unwrap();
            let item = store.load_items(&project("p"), &[item], NOW, 1 << 20).await;
            if is_of_body {
                assert_eq!(chain.unwrap().len(), 3, "a chain needs no body");
                assert!(
                    matches!(item.unwrap(), FoundItems::All(found) if found.len() == 1),
                    "nor does an item"
                );
            } else {
                assert_names(&chain, damaged, column);
                assert_names(&item, damaged, column);
            }
            assert_eq!(store.load_chain(&project("p"), whole(first + 5)).await.unwrap().len(), 2);
            for n in [first, first + 2, first + 5] {
                assert!(
                    store.load(&project("p"), id(n), NOW).await.unwrap().is_some(),
                    "{column}: others work"
                );
            }
            assert!(store.is_available());
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_of_items_never_yields_another_item() {
    for database in Database::each().await {
        let store = database.serve().await;
        record_chain(&store, 1, 2, None).await;
        store.close().await;
        let store = database.open().await;
        let item = ItemId::new("msg_2").unwrap();
        for position in [0, 9] {
            database
                .execute(&format!("UPDATE items SET position = {position} WHERE item_id = 'msg_2'"))
                .await;
            assert_names(
                &store.load_items(&project("p"), std::slice::from_ref(&item), NOW, 1 << 20).await,
                2,
                "position",
            );
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_earlier_releases_have_no_checksum_and_are_read() {
    for database in Database::each().await {
        let store = database.open().await;
        record_chain(&store, 1, 2, None).await;
        let before = store.load(&project("p"), id(1), NOW).await.unwrap();
        database.execute("UPDATE responses SET checksum = NULL, body_checksum = NULL").await;
        assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), before);
        assert_eq!(store.load_chain(&project("p"), whole(2)).await.unwrap().len(), 2);
        store.close().await;
    }
}

/// Long enough that most of the file is theirs.
fn long(n: u64) -> StoredTurn {
    let text = |word: &str| format!("{word} {n} ").repeat(40);
    StoredTurn {
        input: format!(r#"[{{"role":"user","content":"{}"}}]"#, text("asked")).into(),
        output: format!(r#"[{{"id":"msg_{n}","content":"{}"}}]"#, text("answered")).into(),
        ..turn(n, (n > 1).then(|| (n - 1, u32::try_from(n - 1).unwrap())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_file_never_changes_what_is_read() {
    const TURNS: u64 = 30;
    const FLIPS: u64 = 150;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let open = async |path: &Path| {
        let url = format!("sqlite://{}", path.display()).parse().unwrap();
        antiphon_store::open(&url, StoreOptions::default()).await
    };
    let store = open(&path).await.unwrap();
    record_all(&store, (1..=TURNS).map(|n| record_of("p", long(n))).collect()).await;
    let mut written: Vec<StoredResponse> = Vec::new();
    for n in 1..=TURNS {
        written.push(store.load(&project("p"), id(n), NOW).await.unwrap().unwrap());
    }
    store.close().await;
    let whole_file = std::fs::read(&path).unwrap();
    let (mut missing, mut errors) = (0, 0);
    for n in 0..FLIPS {
        let mut bytes = whole_file.clone();
        let bit = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (8 * bytes.len() as u64);
        bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
        let flipped = directory.path().join(format!("{n}.db"));
        std::fs::write(&flipped, bytes).unwrap();
        let Ok(store) = open(&flipped).await else { continue };
        for expected in &written {
            match store.load(&project("p"), expected.turn.id, NOW).await {
                Ok(Some(found)) => assert_eq!(found, *expected, "bit {bit}"),
                Ok(None) => missing += 1,
                Err(_) => errors += 1,
            }
        }
        if let Ok(chain) = store.load_chain(&project("p"), whole(TURNS)).await
            && !chain.is_empty()
        {
            assert!(chain.iter().eq(written.iter().rev().map(|response| &response.turn)), "bit {bit}");
        }
        store.close().await;
        std::fs::remove_file(flipped).unwrap();
    }
    println!("{FLIPS} flips: {errors} errors, {missing} missing, none wrong");
    assert!(errors > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_events_are_an_error_that_names_them() {
    for database in Database::each().await {
        let store = database.open().await;
        let turn = queued(1);
        let lease = turn.lease.clone();
        assert!(store.queue_background(turn, limits(1)).await.unwrap());
        let text = "event: x\ndata: {\"sequence_number\":1}\n\n".repeat(20);
        let events = EventChunk { first: 1, last: 1, bytes: text.clone().into() };
        assert!(store.append_events(&lease, events.clone()).await.unwrap());
        assert_eq!(store.list_events(&lease.project, lease.id, Some(0)).await.unwrap(), [events]);
        let moved = "UPDATE background_events SET last_sequence = 2 WHERE first_sequence = 1".to_owned();
        let (plain, row) = (database.bytes(&text), "first_sequence = 1");
        let changed = format!("UPDATE background_events SET last_sequence = 1, bytes = {plain} WHERE {row}");
        for change in [moved, changed] {
            database.execute(&change).await;
            let result = store.list_events(&lease.project, lease.id, Some(0)).await;
            assert_names(&result, 1, &change);
            assert!(format!("{result:?}").contains("from event 1 on"));
        }
        // Events of earlier versions have no checksum, and are as they were sent.
        database.execute("UPDATE background_events SET checksum = NULL WHERE first_sequence = 1").await;
        let found = store.list_events(&lease.project, lease.id, Some(0)).await.unwrap();
        assert_eq!(found[0].bytes, text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_background_turn_is_an_error_that_names_it() {
    for database in Database::each().await {
        let bytes = database.bytes("{}");
        let changes = [("request", &*bytes), ("input", &*bytes), ("headers", "'[]'"), ("response", &*bytes)];
        let store = database.open().await;
        for (n, (column, value)) in (10..).zip(changes) {
            let mut turn = queued(n);
            turn.is_stored = false;
            assert!(store.queue_background(turn, limits(9)).await.unwrap());
            database
                .execute(&format!("UPDATE background_turns SET {column} = {value} WHERE {}", database.is(n)))
                .await;
            let turn = store.load_background(&project("p"), id(n)).await.unwrap().unwrap();
            let request = store.load_background_request(&project("p"), id(n), NOW).await;
            if matches!(column, "request" | "input") {
                assert_names(&request, n, column);
                assert!(!turn.is_damaged, "{column}");
            } else {
                assert_names(&turn.response(), n, column);
                assert!(request.unwrap().is_some(), "{column}");
            }
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_response_of_an_ended_background_turn_is_an_error_that_names_it() {
    for database in Database::each().await {
        let store = database.open().await;
        let mut turn = queued(1);
        turn.is_stored = false;
        let lease = turn.lease.clone();
        assert!(store.queue_background(turn, limits(9)).await.unwrap());
        let result = BackgroundResult::Kept {
            response: Bytes::from_static(b"{\"id\":1}"),
            log: Box::new(log_row("p", id(1), NOW)),
            settlement: None,
        };
        let ending = BackgroundEnd { result, ..end(&lease, 1, Status::Completed) };
        assert!(store.end_background(ending).await.unwrap().is_some());
        let load = async || store.load_background(&project("p"), id(1)).await.unwrap().unwrap();
        assert_eq!(&load().await.response().unwrap()[..], b"{\"id\":1}");
        let change = format!("UPDATE background_turns SET response = {}", database.bytes("{\"id\":2}"));
        database.execute(&change).await;
        assert_names(&load().await.response(), 1, "response");
        // An earlier version, which stored no checksum, has ended it.
        database.execute("UPDATE background_turns SET ended_checksum = NULL").await;
        assert_eq!(&load().await.response().unwrap()[..], b"{\"id\":2}");
        store.close().await;
    }
}
