//! Moving a store: every row of one database into another, of either engine.
//!
//! Both databases are walked in the order of their keys, side by side, in pages of bounded size: what the target lacks is
//! inserted, what it has is left alone. So a copy that was broken off goes on where it ended when it is run again. The
//! source is read in one snapshot and is not written to. At the end both are read once more, and compared by count and
//! digest.

mod table;

use std::cmp::Ordering;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

pub(crate) use self::table::{Cell, Key, Kind, Row, TABLES, Table};
use crate::{SqliteTarget, StoreError, StoreUrl, postgres, sqlite};

/// What is read or written at once: about so many bytes, one row at least.
const PAGE_BYTES: usize = 4 << 20;
const PAGE_ROWS: usize = 1000;

/// One of the two databases.
#[async_trait]
pub(crate) trait Side: Send + Sync {
    async fn count(&self, table: &'static Table) -> Result<u64, StoreError>;

    /// Rows in the order of the key, from behind `after` on: as many as [`Bounds`] allow, none at the end.
    async fn page(
        &self,
        table: &'static Table,
        after: Option<Key>,
        bounds: Bounds,
    ) -> Result<Vec<Row>, StoreError>;

    /// In one transaction. A row whose key is there is left alone.
    async fn insert(&self, table: &'static Table, rows: Vec<Row>) -> Result<(), StoreError>;

    async fn close(&self);
}

/// How much is read at once: rows until there are so many, or so many bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// How far a copy has come.
#[derive(Debug, Clone, Copy)]
pub struct CopyProgress {
    pub table: &'static str,
    pub step: CopyStep,
    /// Rows of the source that have been looked at, and that there are.
    pub rows: u64,
    pub of_rows: u64,
    /// Bytes that were inserted so far, over all tables.
    pub copied_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyStep {
    Copying,
    Verifying,
}

/// What a copy came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyReport {
    pub tables: Vec<TableReport>,
}

/// What became of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableReport {
    pub table: &'static str,
    /// Rows that this run inserted, and their bytes.
    pub copied: u64,
    pub copied_bytes: u64,
    /// Rows that were there already, the same as in the source.
    pub present: u64,
    /// Rows that the target has under the same key, and that are others.
    pub differing: u64,
    /// Rows that only the target has.
    pub extra: u64,
    /// Rows on either side in the end, and what they digest to.
    pub source: Digested,
    pub target: Digested,
}

/// A table's rows, counted, and put through SHA-256 in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digested {
    pub rows: u64,
    pub digest: String,
}

/// Copies every row that the target lacks, and compares the two.
pub async fn copy(
    from: &StoreUrl,
    to: &StoreUrl,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<CopyReport, StoreError> {
    if is_same(from, to) {
        return Err(StoreError::Unusable(format!("{from} can't be copied to itself")));
    }
    let source = open(from, End::Source).await?;
    let target = match open(to, End::Target).await {
        Ok(target) => target,
        Err(error) => {
            source.close().await;
            return Err(error);
        }
    };
    let result = copy_between(&*source, &*target, progress).await;
    source.close().await;
    target.close().await;
    result
}

fn is_same(from: &StoreUrl, to: &StoreUrl) -> bool {
    match (from, to) {
        (StoreUrl::Sqlite(SqliteTarget::File(from)), StoreUrl::Sqlite(SqliteTarget::File(to))) => {
            // A file that is not there is not the source's.
            from.canonicalize().is_ok_and(|from| to.canonicalize().is_ok_and(|to| from == to))
        }
        _ => from == to,
    }
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Target,
}

async fn open(url: &StoreUrl, end: End) -> Result<Box<dyn Side>, StoreError> {
    match (url, end) {
        (StoreUrl::Sqlite(target), End::Source) => sqlite::copy_source(target).await,
        (StoreUrl::Sqlite(target), End::Target) => sqlite::copy_target(target).await,
        (StoreUrl::Postgres(target), End::Source) => postgres::copy_source(target).await,
        (StoreUrl::Postgres(target), End::Target) => postgres::copy_target(target).await,
    }
}

async fn copy_between(
    source: &dyn Side,
    target: &dyn Side,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<CopyReport, StoreError> {
    let mut report = CopyReport::default();
    let mut copied_bytes = 0;
    for table in &TABLES {
        let mut state = CopyProgress {
            table: table.name,
            step: CopyStep::Copying,
            rows: 0,
            of_rows: source.count(table).await?,
            copied_bytes,
        };
        let mut of_table = copy_table(table, source, target, &mut state, progress).await?;
        copied_bytes = state.copied_bytes;
        state.step = CopyStep::Verifying;
        of_table.source = digest(table, source, &mut state, progress).await?;
        of_table.target = digest(table, target, &mut state, progress).await?;
        report.tables.push(of_table);
    }
    Ok(report)
}

async fn copy_table(
    table: &'static Table,
    source: &dyn Side,
    target: &dyn Side,
    state: &mut CopyProgress,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<TableReport, StoreError> {
    let mut report = TableReport { table: table.name, ..TableReport::default() };
    let mut there = Walk::new(table, target);
    let mut here = Walk::new(table, source);
    let mut missing = Batch::default();
    while let Some(row) = here.next().await? {
        state.rows += 1;
        while there.peek().await?.is_some_and(|other| table::compare(other.key(), row.key()).is_lt()) {
            there.next().await?;
            report.extra += 1;
        }
        let other = there.peek().await?;
        match other.filter(|other| table::compare(other.key(), row.key()) == Ordering::Equal) {
            Some(other) => {
                let is_same = *other == row;
                report.present += u64::from(is_same);
                report.differing += u64::from(!is_same);
                there.next().await?;
            }
            None => {
                missing.push(row);
                if missing.is_full() {
                    missing.insert(table, target, &mut report).await?;
                }
            }
        }
        if state.rows.is_multiple_of(PAGE_ROWS as u64) {
            progress(CopyProgress { copied_bytes: state.copied_bytes + report.copied_bytes, ..*state });
        }
    }
    missing.insert(table, target, &mut report).await?;
    while there.next().await?.is_some() {
        report.extra += 1;
    }
    state.copied_bytes += report.copied_bytes;
    progress(*state);
    Ok(report)
}

async fn digest(
    table: &'static Table,
    side: &dyn Side,
    state: &mut CopyProgress,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<Digested, StoreError> {
    let mut walk = Walk::new(table, side);
    let mut digest = Sha256::new();
    state.rows = 0;
    while let Some(row) = walk.next().await? {
        row.digest(&mut digest);
        state.rows += 1;
        if state.rows.is_multiple_of(PAGE_ROWS as u64) {
            progress(*state);
        }
    }
    let digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Digested { rows: state.rows, digest })
}

/// The rows of a table, one after the other.
struct Walk<'a> {
    table: &'static Table,
    side: &'a dyn Side,
    page: std::iter::Peekable<std::vec::IntoIter<Row>>,
    last: Option<Key>,
    is_over: bool,
}

impl<'a> Walk<'a> {
    fn new(table: &'static Table, side: &'a dyn Side) -> Self {
        Self { table, side, page: Vec::new().into_iter().peekable(), last: None, is_over: false }
    }

    async fn peek(&mut self) -> Result<Option<&Row>, StoreError> {
        if self.page.peek().is_none() && !self.is_over {
            let bounds = Bounds { rows: PAGE_ROWS, bytes: PAGE_BYTES };
            let page = self.side.page(self.table, self.last.take(), bounds).await?;
            self.last = page.last().map(Row::owned_key);
            self.is_over = page.is_empty();
            self.page = page.into_iter().peekable();
        }
        Ok(self.page.peek())
    }

    async fn next(&mut self) -> Result<Option<Row>, StoreError> {
        self.peek().await?;
        Ok(self.page.next())
    }
}

/// Rows that wait to be inserted.
#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, row: Row) {
        self.bytes += row.size_bytes();
        self.rows.push(row);
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= PAGE_ROWS || self.bytes >= PAGE_BYTES
    }

    async fn insert(
        &mut self,
        table: &'static Table,
        target: &dyn Side,
        report: &mut TableReport,
    ) -> Result<(), StoreError> {
        let Self { rows, bytes } = std::mem::take(self);
        if !rows.is_empty() {
            let count = rows.len() as u64;
            target.insert(table, rows).await?;
            report.copied += count;
            report.copied_bytes += bytes as u64;
        }
        Ok(())
    }
}

// === impl CopyReport ===

impl CopyReport {
    /// Whether both databases hold the same rows.
    pub fn is_verified(&self) -> bool {
        self.tables.iter().all(|table| table.source == table.target)
    }
}
