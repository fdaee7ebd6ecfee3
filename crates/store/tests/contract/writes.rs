//! Writes that share a transaction don't share their failures.

use std::sync::Arc;
use std::time::Duration;

use antiphon_store::{StoreError, StoreOptions};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, NOW, id, project, record, record_all};

pub(crate) async fn one_bad_record_does_not_fail_its_neighbours(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(0, None)).await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..200 {
        let store = Arc::clone(&store);
        // The id of every tenth is taken.
        let record = record(if n % 10 == 0 { 0 } else { n }, None);
        tasks.spawn(async move { (n, store.record(record).await) });
    }
    while let Some(done) = tasks.join_next().await {
        let (n, result) = done.unwrap();
        match result {
            Ok(_) => assert!(n % 10 != 0),
            Err(error) => assert!(n % 10 == 0 && matches!(error, StoreError::Refused(_)), "{n}: {error}"),
        }
    }
    assert!(store.is_available());
    for n in (1..200).filter(|n| n % 10 != 0) {
        assert!(store.load(&project("p"), id(n), NOW).await.unwrap().is_some());
    }
}

pub(crate) async fn a_dropped_caller_harms_nothing(fixture: impl Fixture) {
    let store = fixture.open().await;
    let mut tasks = JoinSet::new();
    for n in 0..500 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let patience = Duration::from_micros(n % 7 * 300);
            let _ = tokio::time::timeout(patience, store.record(record(n, None))).await;
        });
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    tasks.shutdown().await;
    record_all(&store, (1_000..1_100).map(|n| record(n, None)).collect()).await;
    for n in 0..500 {
        let loaded = store.load(&project("p"), id(n), NOW).await.unwrap();
        assert!(loaded.is_none_or(|loaded| loaded == record(n, None).response));
    }
}

pub(crate) async fn a_deadline_is_kept(fixture: impl Fixture) {
    let options = StoreOptions { commit_timeout: Duration::from_nanos(1), ..StoreOptions::default() };
    let store = fixture.open_with(options).await;
    for n in 0..20 {
        let result = store.record(record(n, None)).await;
        assert!(matches!(result, Ok(_) | Err(StoreError::Deadline(_))), "{result:?}");
        // The late turn is stored whole or not at all.
        let loaded = store.load(&project("p"), id(n), NOW).await.unwrap();
        assert!(loaded.is_none_or(|loaded| loaded == record(n, None).response));
    }
    store.close().await;
}

pub(crate) async fn a_working_store_is_available(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert!(store.is_available());
    store.check().await.unwrap();
    store.check().await.unwrap();
    assert!(store.is_available());
    assert_eq!(store.list_log(10).await.unwrap(), []);
}
