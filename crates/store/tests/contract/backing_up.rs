//! Backing up a store into a file.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use antiphon_store::{CopyProgress, Store, StoreError, StoreUrl};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::damage::Database;
use crate::fixture::{record, record_chain};

fn url_of(file: &Path) -> StoreUrl {
    format!("sqlite://{}", file.display()).parse().unwrap()
}

async fn backup(database: &Database, file: &Path) -> Result<u64, StoreError> {
    let report = antiphon_store::backup(&database.url().parse().unwrap(), file, &mut |_| {}).await?;
    assert_eq!(report.bytes, fs::metadata(file).unwrap().len());
    Ok(report.responses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_has_every_row_beside_a_gateway() {
    for database in Database::each().await {
        let store = database.open().await;
        record_chain(&store, 1, 1_200, None).await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("backup.db");
        assert_eq!(backup(&database, &file).await.unwrap(), 1_200);
        let from: StoreUrl = database.url().parse().unwrap();
        let compared = antiphon_store::copy(&from, &url_of(&file), &mut |_| {}).await.unwrap();
        assert!(
            compared.is_verified() && compared.tables.iter().all(|table| table.copied == 0),
            "{compared:?}"
        );
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_that_are_recorded_meanwhile_do_not_spoil_a_backup() {
    for database in Database::each().await {
        let store: Arc<dyn Store> = database.open().await;
        record_chain(&store, 1, 30, None).await;
        let mut next = 5_000;
        let mut write = |_: CopyProgress| {
            next += 1;
            block_in_place(|| Handle::current().block_on(store.record(record(next, None)))).unwrap();
        };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("backup.db");
        antiphon_store::backup(&database.url().parse().unwrap(), &file, &mut write).await.unwrap();
        assert!(antiphon_store::verify(&url_of(&file), &mut |_| {}).await.unwrap().is_intact());
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_fails_leaves_nothing_and_overwrites_nothing() {
    for database in Database::each().await {
        let store = database.open().await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("backup.db");
        fs::write(&file, "precious").unwrap();
        let error = backup(&database, &file).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Unusable(text) if text.contains("overwrites nothing")),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        fs::remove_file(&file).unwrap();
        let nowhere = directory.path().join("none/backup.db");
        assert!(matches!(backup(&database, &nowhere).await, Err(StoreError::Unusable(_))));
        let absent: StoreUrl = url_of(&directory.path().join("absent.db"));
        assert!(antiphon_store::backup(&absent, &file, &mut |_| {}).await.is_err());
        let memory: StoreUrl = "sqlite::memory:".parse().unwrap();
        assert!(antiphon_store::backup(&memory, &file, &mut |_| {}).await.is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        store.close().await;
    }
}
