//! `/api/audit`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Operator;
use super::request::Parameters;
use crate::http::error_reply::ErrorReply;
use crate::operations::{AuditList, Operations, Page};

/// List changes, newest first. `after` is an entry's `id`.
#[utoipa::path(
    get,
    path = "/api/audit",
    operation_id = "list_audit",
    tag = "audit",
    params(Page),
    responses((status = OK, body = AuditList))
)]
pub async fn list(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<AuditList>, ErrorReply> {
    Ok(Json(operations.list_audit(&page).await?))
}
