//! The request log has a row for every turn.

use std::time::Duration;

use crate::fixture::{Fixture, after, id, log_row, record};

pub(crate) async fn a_record_brings_its_log_row(fixture: impl Fixture) {
    let store = fixture.open().await;
    let mut record = record(1, None);
    record.log.code = Some("server_error".into());
    record.log.account = None;
    record.log.first_event = Some(Duration::from_micros(1));
    store.record(record.clone()).await.unwrap();
    assert_eq!(store.list_log(10).await.unwrap(), [record.log]);
}

pub(crate) async fn an_appended_row_is_written_soon(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert!(store.append(log_row("p", id(1), after(0))));
    let written = async {
        while store.list_log(10).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), written).await.unwrap();
    assert_eq!(store.list_log(10).await.unwrap(), [log_row("p", id(1), after(0))]);
}

pub(crate) async fn the_newest_rows_come_first(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in [3, 1, 4, 2] {
        assert!(store.append(log_row("p", id(n), after(n))));
    }
    // Comes after them in the queue.
    store.check().await.unwrap();
    let rows = store.list_log(3).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.at).collect::<Vec<_>>(), [after(4), after(3), after(2)]);
}

pub(crate) async fn closing_writes_what_was_appended(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 0..1_000 {
        assert!(store.append(log_row("p", id(n), after(n))));
    }
    store.close().await;
    if fixture.survives() {
        assert_eq!(fixture.open().await.list_log(2_000).await.unwrap().len(), 1_000);
    }
}
