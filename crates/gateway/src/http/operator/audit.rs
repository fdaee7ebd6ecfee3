//! `/api/audit`: who changed what.

use antiphon_store::AuditEntry;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Operator;
use super::page::Page;
use crate::http::doors::Doors;
use crate::http::error::Refused;
use crate::turn::Failure;
use antiphon_runtime::rfc3339;

const PREFIX: &str = "audit_";

#[derive(Debug, Serialize, ToSchema)]
pub struct AuditList {
    /// The newest first.
    entries: Vec<Entry>,
    has_more: bool,
}

/// One change.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct Entry {
    #[schema(example = "audit_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b")]
    id: String,
    /// In RFC 3339, in UTC.
    at: String,
    /// By which way it came: `admin_api`, `command_line`, or `gateway` if nobody asked for it.
    actor: String,
    #[schema(example = "key.created")]
    action: String,
    /// The name of what was changed.
    target: String,
    #[schema(value_type = Object)]
    detail: Map<String, Value>,
}

/// What was changed, the newest first; `after` takes an entry's `id`.
#[utoipa::path(
    get,
    path = "/api/audit",
    operation_id = "list_audit",
    tag = "audit",
    params(Page),
    responses((status = OK, body = AuditList))
)]
pub async fn list(_: Operator, State(doors): State<Doors>, page: Page) -> Result<Json<AuditList>, Refused> {
    let after = page.after.as_deref().map(|text| parse(text).ok_or_else(|| page.unknown_cursor()));
    let rows = doors.turns.chains.store().list_audit(after.transpose()?, page.rows()).await;
    let (entries, has_more) = page.cut(rows.map_err(Failure::from)?);
    Ok(Json(AuditList { entries: entries.into_iter().map(Entry::new).collect(), has_more }))
}

fn parse(id: &str) -> Option<Uuid> {
    let hex = id.strip_prefix(PREFIX).filter(|hex| hex.len() == 32)?;
    Uuid::try_parse(hex).ok()
}

impl Entry {
    fn new(entry: AuditEntry) -> Self {
        Self {
            id: format!("{PREFIX}{}", entry.id().as_simple()),
            at: rfc3339(entry.at()),
            detail: serde_json::from_str(&entry.detail).unwrap_or_default(),
            actor: entry.actor,
            action: entry.action,
            target: entry.target,
        }
    }
}
