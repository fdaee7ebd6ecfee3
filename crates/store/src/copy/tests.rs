use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::sql::{Cell, Kind};

/// A row with this number in its key, some text or bytes of this size, and this depth.
fn row(table: &Table, n: u32, size_bytes: usize, depth: i64) -> Row {
    let cell = |(name, kind): &(&str, Kind)| match (*name, kind) {
        ("position", _) if table.name == "conversation_items" => Cell::Number(n.into()),
        ("depth" | "position" | "item_position", _) => Cell::Number(depth),
        ("conversation_id", Kind::Text) => Cell::Null,
        ("parent_id" | "code" | "first_event_us" | "referenced", _) => Cell::Null,
        ("model", _) if table.name == "request_log" => Cell::Text("m".repeat(size_bytes)),
        ("input", _) => Cell::Bytes(vec![0xff; size_bytes]),
        (_, Kind::Id) => Cell::Id(Uuid::from_u128(n.into())),
        (_, Kind::Text) => Cell::Text(format!("{n:08}")),
        (_, Kind::Number) => Cell::Number(n.into()),
        (_, Kind::Bytes) => Cell::Bytes(n.to_be_bytes().to_vec()),
    };
    Row(table.columns.iter().map(cell).collect())
}

/// Fills an empty database, and reads it in pages.
pub(crate) async fn check_pages(side: &dyn Side) {
    const BOUNDS: Bounds = Bounds { rows: 7, bytes: 10_000 };
    const FIXED_BYTES: usize = 200;
    for table in &TABLES {
        let is_large = |n: u32| n.is_multiple_of(13);
        let rows: Vec<Row> =
            (0..100).map(|n| row(table, n, if is_large(n) { 30_000 } else { 900 }, 1)).collect();
        side.insert(table, rows.iter().rev().cloned().collect()).await.unwrap();
        side.insert(table, (0..3).map(|n| row(table, n, 1, 2)).collect()).await.unwrap();
        assert_eq!(side.count(table).await.unwrap(), 100);
        let mut read: Vec<Row> = Vec::new();
        loop {
            let page =
                side.page(table, read.last().map(|row| table.key_of(row).to_vec()), BOUNDS).await.unwrap();
            let Some((_, others)) = page.split_last() else { break };
            let bytes: usize = others.iter().map(Row::size_bytes).sum();
            assert!(page.len() <= BOUNDS.rows, "{}: {} rows", table.name, page.len());
            assert!(bytes <= BOUNDS.bytes + FIXED_BYTES * BOUNDS.rows, "{}: {bytes} bytes", table.name);
            read.extend(page);
        }
        assert!(read == rows, "{}: existing rows are not touched, and all are read", table.name);
    }
}

/// `columns` holds every column of a schema, with its table: columns that a migration adds must be copied, too.
pub(crate) fn assert_all_are_copied(columns: &BTreeSet<(String, String)>) {
    let columns_of = |table: &'static Table| {
        table.columns.iter().map(|(column, _)| (table.name.to_owned(), (*column).to_owned()))
    };
    let copied: BTreeSet<_> = TABLES.iter().flat_map(columns_of).collect();
    assert_eq!(copied, *columns);
}

/// A database that is a map and notes the size of each insert.
#[derive(Default)]
struct Fake {
    rows: Mutex<BTreeMap<(&'static str, u32), Row>>,
    inserts: Mutex<Vec<(usize, usize)>>,
    /// How many inserts succeed before one fails, if any does.
    max_inserts: Option<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(key: &[Cell]) -> u32 {
    match &key[0] {
        Cell::Id(id) => u32::try_from(id.as_u128()).unwrap(),
        Cell::Text(text) => text.parse().unwrap(),
        Cell::Number(number) => u32::try_from(*number).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[async_trait]
impl Side for Fake {
    async fn count(&self, table: &'static Table) -> Result<u64, StoreError> {
        Ok(lock(&self.rows).keys().filter(|(name, _)| *name == table.name).count() as u64)
    }

    async fn page(
        &self,
        table: &'static Table,
        after: Option<Key>,
        bounds: Bounds,
    ) -> Result<Vec<Row>, StoreError> {
        let first = after.map_or(0, |key| number(&key) + 1);
        let rows = lock(&self.rows);
        let mut bytes = 0;
        let fits = |row: &&Row| {
            let is_within = bytes < bounds.bytes;
            bytes += row.size_bytes();
            is_within
        };
        let page = rows.range((table.name, first)..=(table.name, u32::MAX)).map(|(_, row)| row);
        Ok(page.take(bounds.rows).take_while(fits).cloned().collect())
    }

    async fn insert(&self, table: &'static Table, rows: Vec<Row>) -> Result<(), StoreError> {
        let mut inserts = lock(&self.inserts);
        if self.max_inserts == Some(inserts.len()) {
            return Err(StoreError::Unavailable("the connection was lost".into()));
        }
        inserts.push((rows.len(), rows.iter().map(Row::size_bytes).sum()));
        for row in rows {
            let key = (table.name, number(table.key_of(&row)));
            lock(&self.rows).entry(key).or_insert(row);
        }
        Ok(())
    }

    async fn select(&self, _: Query) -> Result<Vec<Columns>, StoreError> {
        unreachable!("a copy reads pages")
    }

    async fn renew(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

fn fake(rows: impl IntoIterator<Item = (&'static Table, Row)>) -> Fake {
    let rows = rows.into_iter().map(|(table, row)| ((table.name, number(table.key_of(&row))), row)).collect();
    Fake { rows: Mutex::new(rows), ..Fake::default() }
}

async fn copy_fakes(source: &Fake, target: &Fake) -> Result<CopyReport, StoreError> {
    copy_between(source, target, &mut |_| {}).await
}

#[tokio::test]
async fn no_more_is_inserted_at_once_than_a_page_and_one_row() {
    const LARGEST: usize = 9 << 20;
    let responses =
        (0..40).map(|n| (&TABLES[0], row(&TABLES[0], n, [1, 1 << 20, LARGEST][n as usize % 3], 1)));
    let log = (0..3_500).map(|n| (&TABLES[2], row(&TABLES[2], n, 10, 1)));
    let (source, target) = (fake(responses.chain(log)), Fake::default());
    let mut most_often = 0;
    let mut progress = |progress: CopyProgress| most_often += u64::from(progress.rows > 0);
    assert!(copy_between(&source, &target, &mut progress).await.unwrap().is_verified());
    assert!(most_often >= 2 * 3_540, "each row moves the progress: a few large ones take long, too");
    for (rows, bytes) in lock(&target.inserts).iter() {
        assert!(*rows <= PAGE_BOUNDS.rows && *bytes <= PAGE_BOUNDS.bytes + LARGEST + 1000, "{rows}, {bytes}");
    }
}

proptest! {
    /// For each key: 0 nowhere, 1 in the source, 2 in both, 3 in both but different, 4 in the target.
    #[test]
    fn the_target_gains_what_it_lacks_and_loses_nothing(
        keys in prop::collection::vec((0_usize..3, 0_u8..5), 1..60),
        max_inserts in prop::option::of(0_usize..3),
    ) {
        let rows_in = |states: &[u8], depth: i64| {
            let keys = (0..).zip(&keys).filter(|(_, (_, state))| states.contains(state));
            fake(keys.map(|(n, (table, state))| {
                (&TABLES[*table], row(&TABLES[*table], n, 1, if *state == 3 { depth } else { 0 }))
            }))
        };
        let (source, mut target) = (rows_in(&[1, 2, 3], 1), rows_in(&[2, 3, 4], 2));
        let before = lock(&target.rows).clone();
        let untouched = lock(&source.rows).clone();
        target.max_inserts = max_inserts;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let interrupted = runtime.block_on(copy_fakes(&source, &target)).is_err();
        target.max_inserts = None;
        let report = runtime.block_on(copy_fakes(&source, &target)).unwrap();

        let count = |state: u8| keys.iter().filter(|(_, of)| *of == state).count() as u64;
        let sum = |of: fn(&TableReport) -> u64| report.tables.iter().map(of).sum::<u64>();
        prop_assert!(interrupted || max_inserts.is_none_or(|most| lock(&target.inserts).len() <= most));
        prop_assert_eq!(sum(|table| table.copied + table.present), count(1) + count(2));
        prop_assert_eq!(sum(|table| table.missing), 0);
        prop_assert_eq!(sum(|table| table.differing), count(3));
        prop_assert_eq!(sum(|table| table.extra), count(4));
        prop_assert_eq!(report.is_verified(), count(3) + count(4) == 0);
        let after = lock(&target.rows);
        prop_assert!(before.iter().all(|(key, row)| after.get(key) == Some(row)), "nothing is overwritten");
        prop_assert!(untouched.keys().all(|key| after.contains_key(key)), "nothing is left out");
        prop_assert!(*lock(&source.rows) == untouched);
    }
}
