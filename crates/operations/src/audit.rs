//! The audit log: who changed what.

use antiphon_access::query;
use antiphon_access::usage::parse_time;
use antiphon_runtime::rfc3339;
use antiphon_store::AuditQuery;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::page::{DEFAULT_LIMIT, MAX_LIMIT};
use super::{InvalidRequest, OperationError, Operations, Page};

const ID_PREFIX: &str = "audit_";

/// Which changes to list: those that meet all conditions.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditSearch {
    /// Origin of the change: `admin_api`, `command_line`, a session's id, or `gateway`.
    pub actor: Option<String>,
    /// An action such as `key.created`, or its first part, such as `key`.
    pub action: Option<String>,
    /// Name of the changed object.
    pub target: Option<String>,
    /// Only changes then or later: an RFC 3339 time, or a day, which starts at midnight UTC.
    pub from: Option<String>,
    /// Only changes before.
    pub to: Option<String>,
    /// Cursor: `id` of the last entry of the previous page.
    pub after: Option<String>,
    /// Maximum number of entries.
    #[serde(default, deserialize_with = "query::limit::<_, MAX_LIMIT>")]
    #[param(minimum = 1, maximum = 100, default = 100)]
    pub limit: Option<u32>,
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
    /// The name of the operator, if an identity provider or a proxy has named them.
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
    /// Newest first.
    pub async fn list_audit(&self, search: AuditSearch) -> Result<AuditList, OperationError> {
        let AuditSearch { actor, action, target, from, to, after, limit } = search;
        let page = Page::new(limit.unwrap_or(DEFAULT_LIMIT), after);
        let after = page.after().map(|id| parse_id(id).ok_or_else(|| page.unknown_cursor())).transpose()?;
        let time =
            |name, text: Option<String>| text.as_deref().map(|text| parse_time(name, text)).transpose();
        let (from, to) = (time("from", from)?, time("to", to)?);
        if from.zip(to).is_some_and(|(from, to)| from >= to) {
            return Err(InvalidRequest::value("from", "expected a time before 'to'").into());
        }
        let query = AuditQuery { after, from, to, actor, action, target, max_rows: page.rows() };
        let (entries, has_more) = page.cut(self.store.list_audit(query).await?);
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
