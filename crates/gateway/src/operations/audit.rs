//! The audit log: who changed what.

use antiphon_runtime::rfc3339;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{OperationError, Operations, Page};

const ID_PREFIX: &str = "audit_";

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
