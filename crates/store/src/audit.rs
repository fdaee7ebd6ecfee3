//! The audit log: who changed what. Each row is written in the transaction of the change itself.

use std::fmt;

use async_trait::async_trait;
use uuid::Uuid;

use crate::sql::{Columns, Database, Kind, Query, Statement, id, number, optional_text, text};
use crate::{StoreError, Timestamp};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// A UUIDv7: later entries sort after earlier ones, and the time of the change is part of it.
    id: Uuid,
    /// Through what the change was made.
    pub actor: String,
    /// The name of the operator in whose session it was made, if known.
    pub operator: Option<String>,
    /// What was done, such as `key.created`.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// More about the change: a JSON object without secrets.
    pub detail: String,
}

/// Which entries to list: those that meet all conditions.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Only entries older than this one.
    pub after: Option<Uuid>,
    /// Only entries of this time or later.
    pub from: Option<Timestamp>,
    /// Only entries of before.
    pub to: Option<Timestamp>,
    pub actor: Option<String>,
    /// An action such as `key.created`, or its first part.
    pub action: Option<String>,
    pub target: Option<String>,
    pub max_rows: u32,
}

/// The audit log. Other traits add to it, as part of their changes.
#[async_trait]
pub trait Audit: Send + Sync {
    /// The newest entries first.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn list_audit(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, StoreError>;

    /// Adds an entry of something that changes nothing.
    ///
    /// # Errors
    /// A [write error](StoreError#write-errors).
    async fn add_audit(&self, entry: AuditEntry) -> Result<(), StoreError>;
}

const INSERT: &str =
    "INSERT INTO audit (at, id, actor, operator, action, target, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)";

const LIST: &str = "SELECT id, actor, operator, action, target, detail FROM audit WHERE (at, id) < ($1, $2) \
     AND at >= $3 AND at < $4 AND actor = COALESCE($5, actor) AND target = COALESCE($6, target) \
     AND (action = COALESCE($7, action) OR substr(action, 1, length($7) + 1) = $7 || '.') \
     ORDER BY at DESC, id DESC LIMIT $8";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 2] = [INSERT, LIST];

// === impl AuditEntry ===

impl AuditEntry {
    /// An entry of this time, with an id made from `random`.
    pub fn new(at: Timestamp, random: &[u8; 10], actor: &str, action: &str, target: &str) -> Self {
        let id = uuid::Builder::from_unix_timestamp_millis(at.unix_ms().unsigned_abs(), random).into_uuid();
        let (actor, action, target) = (actor.to_owned(), action.to_owned(), target.to_owned());
        Self { id, actor, operator: None, action, target, detail: "{}".to_owned() }
    }

    /// Sets what else there is to say.
    #[must_use]
    pub fn detail(self, detail: &impl fmt::Display) -> Self {
        Self { detail: detail.to_string(), ..self }
    }

    /// Sets who made the change.
    #[must_use]
    pub fn operator(self, operator: Option<&str>) -> Self {
        Self { operator: operator.map(str::to_owned), ..self }
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    pub fn at(&self) -> Timestamp {
        time_of(self.id)
    }

    pub(crate) fn insert(self) -> Statement {
        let arguments = vec![
            number(self.at().unix_ms()),
            id(self.id),
            text(self.actor),
            optional_text(self.operator),
            text(self.action),
            text(self.target),
            text(self.detail),
        ];
        Statement::new(INSERT, arguments)
    }
}

/// The first 48 bits of a UUIDv7.
fn time_of(id: Uuid) -> Timestamp {
    Timestamp::from_unix_ms(i64::try_from(id.as_u128() >> 80).unwrap_or(i64::MAX))
}

#[async_trait]
impl<D: Database> Audit for D {
    async fn list_audit(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        const COLUMNS: [Kind; 6] = [Kind::Id, Kind::Text, Kind::Text, Kind::Text, Kind::Text, Kind::Text];
        let after = query.after.unwrap_or(Uuid::max());
        let arguments = vec![
            number(time_of(after).unix_ms()),
            id(after),
            number(query.from.map_or(0, Timestamp::unix_ms)),
            number(query.to.map_or(i64::MAX, Timestamp::unix_ms)),
            optional_text(query.actor),
            optional_text(query.target),
            optional_text(query.action),
            number(i64::from(query.max_rows)),
        ];
        let rows = self.query(Query { text: LIST, arguments, columns: &COLUMNS }).await?;
        let entry = |mut row: Columns| {
            Ok(AuditEntry {
                id: row.id()?,
                actor: row.text()?,
                operator: row.optional_text(),
                action: row.text()?,
                target: row.text()?,
                detail: row.text()?,
            })
        };
        rows.into_iter().map(entry).collect()
    }

    async fn add_audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.group().execute(entry.insert()).await.map(|_| ())
    }
}
