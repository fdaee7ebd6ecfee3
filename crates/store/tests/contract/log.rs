//! The request log, and the stats of a store.

use std::time::Duration;

use antiphon_testkit::eventually;

use crate::fixture::{
    Fixture, NOW, after, append_all, id, log_row, project, record, record_chain, record_of, turn,
};

pub(crate) async fn a_record_adds_its_log_row(fixture: impl Fixture) {
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
    store.append_log(log_row("p", id(1), after(0)));
    eventually("the row is written", async || !store.list_log(10).await.unwrap().is_empty()).await;
    assert_eq!(store.list_log(10).await.unwrap(), [log_row("p", id(1), after(0))]);
}

pub(crate) async fn the_newest_rows_come_first(fixture: impl Fixture) {
    let store = fixture.open().await;
    append_all(&store, [3, 1, 4, 2].map(|n| log_row("p", id(n), after(n)))).await;
    let rows = store.list_log(3).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.at).collect::<Vec<_>>(), [after(4), after(3), after(2)]);
}

pub(crate) async fn closing_writes_what_was_appended(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 0..1_000 {
        store.append_log(log_row("p", id(n), after(n)));
    }
    store.close().await;
    if fixture.survives() {
        assert_eq!(fixture.open().await.list_log(2_000).await.unwrap().len(), 1_000);
    }
}

pub(crate) async fn stats_are_by_project(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.stats(NOW).await.unwrap(), []);
    record_chain(&store, 1, 5, None).await;
    store.record(record_of("q", turn(6, None))).await.unwrap();
    assert!(store.delete(&project("p"), id(2), NOW).await.unwrap());
    let stats = store.stats(after(1)).await.unwrap();
    let counts =
        |n: usize| (stats[n].project.as_str(), stats[n].responses, stats[n].chains, stats[n].expired);
    assert_eq!((stats.len(), counts(0), counts(1)), (2, ("p", 5, 1, 1), ("q", 1, 1, 0)));
    assert_eq!(stats[0].oldest, NOW);
    assert!(stats[0].bytes > 5 * 50 && stats[1].bytes > 50);
}
