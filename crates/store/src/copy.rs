//! Moving a store: every row of one database into another, of either engine.
//!
//! Both databases are read side by side, in the order of their keys and in pages of bounded size. Rows that the target lacks are
//! inserted; rows that it has are not touched. So an interrupted copy continues where it ended when it is run again. The source
//! is read in one snapshot and never written to. At the end both are read once more, the source in a new snapshot, and compared
//! row by row, by count and by digest.

mod named;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::os::unix::fs::MetadataExt;

use antiphon_runtime::hex;
use async_trait::async_trait;
use sha2::{Digest, Sha256};

use self::named::Named;
pub(crate) use self::table::{Key, Row, TABLES, Table};
#[cfg(test)]
pub(crate) use self::tests::{assert_all_are_copied, check_pages};
use self::walk::Pairs;
use crate::sql::{Columns, Query};
use crate::{SqliteTarget, StoreError, StoreUrl, postgres, sqlite};

/// How much is read or written at once, at least one row.
const PAGE_BOUNDS: Bounds = Bounds { rows: 1000, bytes: 4 << 20 };

/// One of the two databases.
#[async_trait]
pub(crate) trait Side: Send + Sync {
    async fn count(&self, table: &'static Table) -> Result<u64, StoreError>;

    /// The rows after `after`, in the order of the key: as many as [`Bounds`] allow, none at the end.
    async fn page(
        &self,
        table: &'static Table,
        after: Option<Key>,
        bounds: Bounds,
    ) -> Result<Vec<Row>, StoreError>;

    /// Inserts rows in one transaction. Skips those whose key exists.
    async fn insert(&self, table: &'static Table, rows: Vec<Row>) -> Result<(), StoreError>;

    /// For a source: reads from the snapshot.
    async fn select(&self, query: Query) -> Result<Vec<Columns>, StoreError>;

    /// For a source: what the engine itself finds to be damaged, if it can verify its files.
    async fn verify_pages(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// For a source: begins a new snapshot, also after an error.
    async fn renew(&self) -> Result<(), StoreError>;

    async fn close(&self);
}

/// The size of a page: it ends with whichever bound is reached first.
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
    /// How many rows of the source have been read, of how many.
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

/// The result of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyReport {
    pub tables: Vec<TableReport>,
}

/// The result for one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableReport {
    pub table: &'static str,
    /// Rows that this run inserted, and their bytes.
    pub copied: u64,
    pub copied_bytes: u64,
    /// Rows that the target had already, equal to the source's.
    pub present: u64,
    /// Rows that only the source has in the end: they were added during the copy.
    pub missing: u64,
    /// Rows whose key both have in the end, with different values.
    pub differing: u64,
    /// Rows that only the target has in the end.
    pub extra: u64,
    /// Count and digest of the rows on each side in the end.
    pub source: Digested,
    pub target: Digested,
}

/// The number of rows in a table, and their SHA-256 in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digested {
    pub rows: u64,
    pub digest: String,
}

/// Copies every row that the target lacks, and compares the two.
///
/// # Errors
/// [`StoreError::Unusable`] when an operator has to act first, such as for a source without a store. Else the
/// [read errors](StoreError#read-errors) of either database, which they name; failed inserts are among them.
pub async fn copy(
    from: &StoreUrl,
    to: &StoreUrl,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<CopyReport, StoreError> {
    if is_same(from, to) {
        return Err(StoreError::Unusable(format!("{from} can't be copied to itself")));
    }
    let source = open_source(from).await?;
    let target = match open_target(to).await {
        Ok(target) => target,
        Err(error) => {
            source.close().await;
            return Err(error);
        }
    };
    let result = copy_between(&source, &target, progress).await;
    source.close().await;
    target.close().await;
    result
}

/// As [`copy`], but compares the target with what was copied, not with what the source has in the end.
pub(crate) async fn copy_snapshot(
    from: &StoreUrl,
    to: &StoreUrl,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<CopyReport, StoreError> {
    let (source, target) = (open_source(from).await?, open_target(to).await?);
    let mut report = CopyReport::default();
    let filled = fill(&source, &target, &mut report, progress).await;
    let compared = match filled {
        Ok(()) => compare(&source, &target, &mut report, progress).await,
        Err(error) => Err(error),
    };
    source.close().await;
    target.close().await;
    compared.map(|()| report)
}

fn is_same(from: &StoreUrl, to: &StoreUrl) -> bool {
    match (from, to) {
        (StoreUrl::Sqlite(SqliteTarget::File(from)), StoreUrl::Sqlite(SqliteTarget::File(to))) => {
            let identity = |path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
            // A file that doesn't exist is not the source.
            identity(from).is_ok_and(|from| identity(to).is_ok_and(|to| from == to))
        }
        _ => from == to,
    }
}

pub(crate) async fn open_source(url: &StoreUrl) -> Result<impl Side, StoreError> {
    let side = match url {
        StoreUrl::Sqlite(target) => sqlite::copy_source(target).await?,
        StoreUrl::Postgres(target) => postgres::copy_source(target).await?,
    };
    Ok(Named::new(side, url))
}

async fn open_target(url: &StoreUrl) -> Result<Named, StoreError> {
    let side = match url {
        StoreUrl::Sqlite(target) => sqlite::copy_target(target).await?,
        StoreUrl::Postgres(target) => postgres::copy_target(target).await?,
    };
    Ok(Named::new(side, url))
}

async fn copy_between(
    source: &dyn Side,
    target: &dyn Side,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<CopyReport, StoreError> {
    let mut report = CopyReport::default();
    fill(source, target, &mut report, progress).await?;
    source.renew().await?;
    compare(source, target, &mut report, progress).await?;
    Ok(report)
}

/// Inserts what the target lacks.
async fn fill(
    source: &dyn Side,
    target: &dyn Side,
    report: &mut CopyReport,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<(), StoreError> {
    let mut copied_bytes = 0;
    for table in &TABLES {
        let total_rows = source.count(table).await?;
        let state = CopyProgress {
            table: table.name,
            step: CopyStep::Copying,
            rows: 0,
            of_rows: total_rows,
            copied_bytes,
        };
        let table_report = copy_table(table, source, target, &mut Meter { state, progress }).await?;
        copied_bytes += table_report.copied_bytes;
        report.tables.push(table_report);
    }
    Ok(())
}

/// Compares all rows of both, as far as they were read.
async fn compare(
    source: &dyn Side,
    target: &dyn Side,
    report: &mut CopyReport,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<(), StoreError> {
    let copied_bytes = report.tables.iter().map(|table| table.copied_bytes).sum();
    for (table, table_report) in TABLES.iter().zip(&mut report.tables) {
        let total_rows = source.count(table).await?;
        let state = CopyProgress {
            table: table.name,
            step: CopyStep::Verifying,
            rows: 0,
            of_rows: total_rows,
            copied_bytes,
        };
        verify_table(table, source, target, table_report, &mut Meter { state, progress }).await?;
    }
    Ok(())
}

async fn copy_table(
    table: &'static Table,
    source: &dyn Side,
    target: &dyn Side,
    meter: &mut Meter<'_>,
) -> Result<TableReport, StoreError> {
    let mut report = TableReport { table: table.name, ..TableReport::default() };
    let mut pairs = Pairs::new(table, source, target);
    let mut batch = Batch::default();
    while let Some((row, other)) = pairs.next().await? {
        meter.advance(row.is_some());
        match (row, other) {
            (Some(row), Some(other)) => report.present += u64::from(row == other),
            (Some(row), None) => batch.push(row),
            (None, _) => {}
        }
        if batch.is_full() {
            meter.state.copied_bytes += batch.insert(table, target, &mut report).await?;
        }
    }
    batch.insert(table, target, &mut report).await?;
    Ok(report)
}

async fn verify_table(
    table: &'static Table,
    source: &dyn Side,
    target: &dyn Side,
    report: &mut TableReport,
    meter: &mut Meter<'_>,
) -> Result<(), StoreError> {
    let (mut source_digest, mut target_digest) = (Digesting::default(), Digesting::default());
    let mut pairs = Pairs::new(table, source, target);
    while let Some((row, other)) = pairs.next().await? {
        meter.advance(row.is_some());
        source_digest.add(row.as_ref());
        target_digest.add(other.as_ref());
        match (row, other) {
            (Some(row), Some(other)) => report.differing += u64::from(row != other),
            (Some(_), None) => report.missing += 1,
            (None, _) => report.extra += 1,
        }
    }
    report.source = source_digest.finish();
    report.target = target_digest.finish();
    Ok(())
}

/// Reports the progress of one step of a table.
struct Meter<'a> {
    state: CopyProgress,
    progress: &'a mut (dyn FnMut(CopyProgress) + Send),
}

impl Meter<'_> {
    fn advance(&mut self, is_of_source: bool) {
        self.state.rows += u64::from(is_of_source);
        (self.progress)(self.state);
    }
}

#[derive(Default)]
struct Digesting {
    rows: u64,
    digest: Sha256,
}

impl Digesting {
    fn add(&mut self, row: Option<&Row>) {
        if let Some(row) = row {
            self.rows += 1;
            row.digest(&mut self.digest);
        }
    }

    fn finish(self) -> Digested {
        let digest = hex::encode(self.digest.finalize());
        Digested { rows: self.rows, digest }
    }
}

/// Rows to insert.
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
        self.rows.len() >= PAGE_BOUNDS.rows || self.bytes >= PAGE_BOUNDS.bytes
    }

    /// Inserts the rows and empties the batch. Returns their size.
    async fn insert(
        &mut self,
        table: &'static Table,
        target: &dyn Side,
        report: &mut TableReport,
    ) -> Result<u64, StoreError> {
        let Self { rows, bytes } = std::mem::take(self);
        if rows.is_empty() {
            return Ok(0);
        }
        let (count, bytes) = (rows.len() as u64, bytes as u64);
        target.insert(table, rows).await?;
        report.copied += count;
        report.copied_bytes += bytes;
        Ok(bytes)
    }
}

// === impl CopyReport ===

impl CopyReport {
    /// Whether both databases hold the same rows.
    pub fn is_verified(&self) -> bool {
        self.tables.iter().all(TableReport::is_verified)
    }
}

// === impl TableReport ===

impl TableReport {
    pub fn is_verified(&self) -> bool {
        self.source == self.target
    }
}
