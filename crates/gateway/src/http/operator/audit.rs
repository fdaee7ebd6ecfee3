//! `/api/audit`.

use std::sync::Arc;

use antiphon_operations::{AuditList, AuditSearch, Operations};
use axum::Json;
use axum::extract::State;

use super::Operator;
use super::request::Parameters;
use crate::http::error_reply::ErrorReply;

/// Search the audit log, newest first.
#[utoipa::path(
    get,
    path = "/api/audit",
    operation_id = "list_audit",
    tag = "audit",
    params(AuditSearch),
    responses((status = OK, body = AuditList))
)]
pub async fn list(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    Parameters(search): Parameters<AuditSearch>,
) -> Result<Json<AuditList>, ErrorReply> {
    Ok(Json(operations.list_audit(search).await?))
}
