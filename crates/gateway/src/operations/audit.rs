//! The audit log: who changed what.

use antiphon_access::usage::parse_time;
use antiphon_runtime::rfc3339;
use antiphon_store::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{OperationError, Operations, Page};

const ID_PREFIX: &str = "audit_";
/// How many entries a search reads at once.
const ROWS: u32 = 1000;

/// Which changes to list: those that meet all conditions.
#[derive(Debug, Clone, Default)]
pub struct AuditSearch {
    /// An RFC 3339 time, or a day.
    pub from: Option<String>,
    /// Exclusive.
    pub to: Option<String>,
    pub actor: Option<String>,
    /// An action such as `key.created`, or its first part.
    pub action: Option<String>,
    pub target: Option<String>,
    /// The maximum number of entries.
    pub limit: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AuditList {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    pub has_more: bool,
}

/// One change.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    #[schema(example = "audit_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b")]
    pub id: String,
    /// In RFC 3339, in UTC.
    pub at: String,
    /// Origin of the change: `admin_api`, `command_line`, a session's id, or `gateway` for automatic changes.
    pub actor: String,
    /// The name of the operator, if an identity provider has named them.
    pub operator: Option<String>,
    #[schema(example = "key.created")]
    pub action: String,
    /// Name of the changed object.
    pub target: String,
    #[schema(value_type = Object)]
    pub detail: Map<String, Value>,
}

// === impl Operations ===

impl Operations {
    /// Newest first; `after` is an entry's id.
    pub async fn list_audit(&self, page: &Page) -> Result<AuditList, OperationError> {
        let after = page.after().map(|id| parse_id(id).ok_or_else(|| page.unknown_cursor())).transpose()?;
        let (entries, has_more) = page.cut(self.store.list_audit(after, page.rows()).await?);
        Ok(AuditList { entries: entries.into_iter().map(AuditEntry::new).collect(), has_more })
    }

    /// Newest first.
    pub async fn search_audit(&self, search: &AuditSearch) -> Result<AuditList, OperationError> {
        let time =
            |name, text: &Option<String>| text.as_deref().map(|text| parse_time(name, text)).transpose();
        let (from, to) = (time("from", &search.from)?, time("to", &search.to)?);
        let mut list = AuditList { entries: Vec::new(), has_more: false };
        let mut after = to.map(first_id_at);
        loop {
            let rows = self.store.list_audit(after, ROWS).await?;
            let is_last = rows.len() < ROWS as usize;
            after = rows.last().map(antiphon_store::AuditEntry::id);
            for row in rows {
                if from.is_some_and(|from| row.at() < from) {
                    return Ok(list);
                }
                if search.matches(&row) {
                    if list.entries.len() == search.limit {
                        return Ok(AuditList { has_more: true, ..list });
                    }
                    list.entries.push(AuditEntry::new(row));
                }
            }
            if is_last {
                return Ok(list);
            }
        }
    }
}

/// No entry of this time has a smaller id.
fn first_id_at(time: Timestamp) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(time.unix_ms().unsigned_abs(), &[0; 10]).into_uuid()
}

// === impl AuditSearch ===

impl AuditSearch {
    fn matches(&self, entry: &antiphon_store::AuditEntry) -> bool {
        let is =
            |condition: &Option<String>, value: &str| condition.as_ref().is_none_or(|text| text == value);
        let is_action = |action: &String| {
            entry.action.strip_prefix(action).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        is(&self.actor, &entry.actor)
            && is(&self.target, &entry.target)
            && self.action.as_ref().is_none_or(is_action)
    }
}

fn parse_id(id: &str) -> Option<Uuid> {
    let hex = id.strip_prefix(ID_PREFIX).filter(|hex| hex.len() == 32)?;
    Uuid::try_parse(hex).ok()
}

// === impl AuditEntry ===

impl AuditEntry {
    fn new(entry: antiphon_store::AuditEntry) -> Self {
        Self {
            id: format!("{ID_PREFIX}{}", entry.id().as_simple()),
            at: rfc3339(entry.at()),
            detail: serde_json::from_str(&entry.detail).unwrap_or_default(),
            actor: entry.actor,
            operator: entry.operator,
            action: entry.action,
            target: entry.target,
        }
    }
}
