//! Verifies a store: reads every response, the indices of items, and background turns with their logs from one snapshot, and reports
//! what is damaged.
//!
//! Memory is bounded by a few responses. A row that can't be read is reported, and the others are still verified.

mod background;
mod conversations;
mod items;
mod responses;

#[cfg(test)]
pub(crate) use self::background::STATEMENTS as BACKGROUND;
#[cfg(test)]
pub(crate) use self::conversations::STATEMENTS as CONVERSATIONS;
#[cfg(test)]
pub(crate) use self::items::STATEMENTS as ITEMS;
#[cfg(test)]
pub(crate) use self::responses::STATEMENTS as RESPONSES;

use antiphon_protocol::id::{ProjectId, ResponseId};

use crate::copy::{Side, open_source};
use crate::sql::{Columns, Query};
use crate::{SqliteTarget, StoreError, StoreUrl};

/// How many damages are reported one by one. More are only counted.
const MAX_LISTED: usize = 1000;
/// How many keys are read at once.
const PAGE: i64 = 200;

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    pub step: VerifyStep,
    pub rows: u64,
    pub of_rows: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyStep {
    /// What the engine itself can verify.
    Pages,
    Responses,
    Items,
    ConversationItems,
}

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub responses: u64,
    /// Responses of earlier releases, which stored no checksum.
    pub without_checksum: u64,
    /// Entries of the index of items.
    pub items: u64,
    /// Entries of the index of conversations' items.
    pub conversation_items: u64,
    /// How much is damaged; the first of it is listed.
    pub damages: u64,
    pub listed: Vec<Damage>,
}

/// One thing that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Whose it is. `None` for what belongs to no single response.
    pub of: Option<(ProjectId, ResponseId)>,
    pub problem: String,
}

/// Verifies a database, which a gateway may use meanwhile. Changes nothing.
///
/// # Errors
/// [`StoreError::Unusable`] when an operator has to act first, such as for a database without a store, and
/// [`StoreError::Unavailable`] when the database is lost meanwhile.
pub async fn verify(
    url: &StoreUrl,
    progress: &mut (dyn FnMut(VerifyProgress) + Send),
) -> Result<VerifyReport, StoreError> {
    if matches!(url, StoreUrl::Sqlite(SqliteTarget::Memory)) {
        return Err(StoreError::Unusable("a database in memory can't be checked from outside".into()));
    }
    let side = open_source(url).await?;
    let mut verifier = Verifier { side: &side, report: VerifyReport::default(), progress };
    let verified = verifier.run().await;
    let report = verifier.report;
    side.close().await;
    verified.map(|()| report)
}

struct Verifier<'a> {
    side: &'a dyn Side,
    report: VerifyReport,
    progress: &'a mut (dyn FnMut(VerifyProgress) + Send),
}

// === impl Verifier ===

impl Verifier<'_> {
    async fn run(&mut self) -> Result<(), StoreError> {
        (self.progress)(VerifyProgress { step: VerifyStep::Pages, rows: 0, of_rows: 0 });
        match self.side.verify_pages().await {
            Ok(problems) => problems.into_iter().for_each(|problem| self.add(None, problem)),
            Err(error) => self.unreadable(None, "the database", &error).await?,
        }
        let matched = self.verify_responses().await?;
        self.verify_items(matched).await?;
        self.verify_conversations().await?;
        self.verify_turns().await?;
        self.verify_logs().await
    }

    async fn select(&self, query: Query) -> Result<Vec<Columns>, StoreError> {
        self.side.select(query).await
    }

    /// Reports what can't be read.
    ///
    /// # Errors
    /// Fails if nothing can be read any more.
    async fn unreadable(
        &mut self,
        of: Option<(ProjectId, ResponseId)>,
        what: &str,
        error: &StoreError,
    ) -> Result<(), StoreError> {
        self.add(of, format!("{what} can't be read: {error}"));
        // A server refuses every query after one that failed, until its transaction ends.
        self.side.renew().await
    }

    fn add(&mut self, of: Option<(ProjectId, ResponseId)>, problem: String) {
        self.report.damages += 1;
        if self.report.listed.len() < MAX_LISTED {
            self.report.listed.push(Damage { of, problem });
        }
    }
}

// === impl VerifyReport ===

impl VerifyReport {
    pub fn is_intact(&self) -> bool {
        self.damages == 0
    }
}
