//! Verifying a store: what is damaged is reported, each once, and nothing else.

use std::ops::RangeInclusive;
use std::sync::Arc;

use antiphon_protocol::id::ProjectId;
use antiphon_store::{EventChunk, Store, StoreError, StoreUrl, VerifyProgress, VerifyReport, VerifyStep};

use crate::background::{limits, queued};
use crate::conversations::{begin, post};
use crate::damage::Database;
use crate::fixture::{NOW, after, id, project, record, record_all, record_chain, record_of, turn};

async fn verify(database: &Database) -> VerifyReport {
    let url: StoreUrl = database.url().parse().unwrap();
    antiphon_store::verify(&url, &mut |_| {}).await.unwrap()
}

/// Chains, forks, other projects, deleted and expired responses, and items that were recorded again.
async fn fill(store: &Arc<dyn Store>) {
    record_chain(store, 1, 450, None).await;
    record_chain(store, 1_000, 5, Some((20, 20))).await;
    let mut again = turn(1_500, None);
    again.input = r#"[{"id":"msg_3"},{"role":"user"},{"id":"twice"},{"id":"twice"}]"#.into();
    let mut expiring = turn(1_501, None);
    expiring.expires_at = Some(after(5));
    let records = [record_of("other", turn(1, None)), record_of("p", again), record_of("ü", expiring)];
    record_all(store, records.into()).await;
    assert!(store.delete(&project("p"), id(1_004), NOW).await.unwrap());
    assert!(store.delete(&project("p"), id(2), NOW).await.unwrap());
    let mut streamed = queued(3_000);
    streamed.event = Some(events(0..=4));
    let lease = streamed.lease.clone();
    assert!(store.queue_background(streamed, limits(9)).await.unwrap());
    assert!(store.append_events(&lease, events(5..=9)).await.unwrap());
}

/// A chunk of a log.
fn events(numbers: RangeInclusive<u64>) -> EventChunk {
    let event = |number| format!("event: x\ndata: {{\"sequence_number\":{number}}}\n\n");
    let (first, last) = (*numbers.start(), *numbers.end());
    EventChunk { first, last, bytes: numbers.map(event).collect::<String>().into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intact_store_is_verified_beside_a_gateway_that_writes() {
    for database in Database::each().await {
        let store = database.open().await;
        fill(&store).await;
        let report = verify(&database).await;
        assert_eq!((report.responses, report.without_checksum, report.items), (458, 0, 459));
        assert!(report.is_intact(), "{report:?}");
        let mut written = 0;
        let mut steps = Vec::new();
        let mut progress = |progress: VerifyProgress| {
            steps.push(progress.step);
            if progress.rows.is_multiple_of(20) {
                written += 1;
                let write =
                    store.record(record(2_000 + written, (written > 1).then(|| (1_999 + written, 1))));
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(write)).ok();
            }
        };
        let report = antiphon_store::verify(&database.url().parse().unwrap(), &mut progress).await.unwrap();
        assert!(report.is_intact() && written > 5, "{report:?}");
        assert!(steps.contains(&VerifyStep::Responses));
        database.execute("UPDATE responses SET checksum = NULL WHERE depth = 7").await;
        assert_eq!(verify(&database).await.without_checksum, 1);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_is_reported_with_its_response() {
    for database in Database::each().await {
        let store = database.serve().await;
        fill(&store).await;
        store.close().await;
        let body = database.bytes("\u{1}broken");
        let change = async |n, to: &str| {
            database
                .execute(&format!("UPDATE responses SET {to} WHERE project = 'p' AND {}", database.is(n)))
                .await;
        };
        change(10, "model = 'other'").await;
        change(12, &format!("body = {body}, body_checksum = NULL")).await;
        change(1_002, "depth = 40, checksum = NULL").await;
        database
            .execute(&format!("DELETE FROM responses WHERE project = 'p' AND {}", database.is(300)))
            .await;
        database.execute("UPDATE items SET position = 7 WHERE item_id = 'msg_5'").await;
        database.execute("UPDATE background_events SET last_sequence = 8 WHERE first_sequence = 5").await;
        let turns = database.bytes("{}");
        database.execute(&format!("UPDATE background_turns SET request = {turns}, response = {turns}")).await;
        let report = verify(&database).await;
        let mut found: Vec<(u64, &str)> = Vec::new();
        for damage in &report.listed {
            let (of, response) = damage.of.clone().unwrap();
            assert_eq!(of, ProjectId::new("p"));
            let n = (1..4_000).find(|n| id(*n) == response).unwrap();
            found.push((n, &damage.problem));
        }
        found.sort_unstable();
        let expected = [
            (5, "the index of items leads from msg_5 to position 7"),
            (10, "the checksum of its items"),
            (12, "its body can't be decompressed"),
            (300, "the index of items leads from msg_300 to it, but it is missing"),
            (301, "its chain is broken: its parent"),
            (1_002, "its chain is broken: its parent"),
            (1_003, "its chain is broken: its parent"),
            (3_000, "its event log is damaged from event 5 on"),
            (3_000, "its request as a background turn is damaged"),
            (3_000, "its response as a background turn is damaged"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((n, problem), (expected_n, begin)) in found.iter().zip(expected) {
            assert!(*n == expected_n && problem.starts_with(begin), "{n} {problem} instead of {begin}");
        }
        assert_eq!(report.damages, expected.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_can_not_be_read_do_not_keep_the_others_from_being_verified() {
    for database in Database::each().await {
        let store = database.open().await;
        record_chain(&store, 1, 300, None).await;
        store.close().await;
        // Of another type than the column's.
        let change = match &database {
            Database::File(_) => {
                "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', ''); \
                 PRAGMA writable_schema = RESET; UPDATE responses SET account = X'ff' WHERE depth IN (5, 6, 100)"
            }
            Database::Server(_) => {
                "ALTER TABLE responses ALTER COLUMN account DROP NOT NULL; \
                 UPDATE responses SET account = NULL WHERE depth IN (5, 6, 100)"
            }
        };
        database.execute(change).await;
        let report = verify(&database).await;
        assert_eq!(report.responses, 300);
        let of: Vec<_> = report.listed.iter().filter_map(|damage| Some(damage.of.clone()?.1)).collect();
        for n in [5, 6, 100] {
            assert!(of.contains(&id(n)), "{n} is missing in {report:?}");
        }
        assert_eq!(of.len(), 3, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_pages_of_a_file_are_reported() {
    let database = Database::File(tempfile::tempdir().unwrap());
    let store = database.open().await;
    record_chain(&store, 1, 300, None).await;
    store.close().await;
    let Database::File(directory) = &database else { return };
    let path = directory.path().join("a.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let offset = bytes.windows(8).rposition(|part| part == b"\"content").unwrap() / 8192 * 8192;
    bytes[offset..offset + 100].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let report = verify(&database).await;
    let is_of_page = |problem: &str| problem.contains("page") || problem.contains("malformed");
    assert!(report.listed.iter().any(|damage| is_of_page(&damage.problem)), "{report:?}");
    assert!(report.listed.iter().any(|damage| damage.of.is_some()), "{report:?}");
    assert_eq!(report.responses, 300);
}

#[tokio::test]
async fn what_is_no_store_can_not_be_verified() {
    let directory = tempfile::tempdir().unwrap();
    for (url, says) in [
        ("sqlite::memory:".to_owned(), "in memory"),
        (format!("sqlite://{}/none.db", directory.path().display()), "there is no file"),
    ] {
        let verified = antiphon_store::verify(&url.parse().unwrap(), &mut |_| {}).await;
        let Err(StoreError::Unusable(reason)) = verified else { panic!("{verified:?}") };
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_that_leads_nowhere_is_reported() {
    for database in Database::each().await {
        let store = database.open().await;
        let conversation = begin(&store, 1).await;
        store.post(post(&conversation, 1..=3)).await.unwrap();
        let report = verify(&database).await;
        assert!(report.is_intact() && report.conversation_items == 3, "{report:?}");
        database.execute("UPDATE conversation_items SET item_position = 9 WHERE position = 1").await;
        database.execute("UPDATE conversations SET depth = 7").await;
        let report = verify(&database).await;
        let problems: Vec<&str> = report.listed.iter().map(|damage| damage.problem.as_str()).collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("the newest turn of conv_"), "{problems:?}");
        assert!(problems[1].ends_with("to position 9, where another item is"), "{problems:?}");
        store.close().await;
    }
}
