//! `/api/config` and `/api/store`.

use std::sync::Arc;

use antiphon_operations::{ConfigReport, Operations, StoreReport};
use axum::Json;
use axum::extract::State;

use super::Operator;
use super::request::{NoParameters, Parameters};
use crate::http::error_reply::ErrorReply;

/// Get the effective configuration with secrets redacted, and where each value comes from.
#[utoipa::path(
    get,
    path = "/api/config",
    operation_id = "get_config",
    tag = "settings",
    responses((status = OK, body = ConfigReport))
)]
pub async fn config(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
) -> Json<ConfigReport> {
    Json(operations.config())
}

/// Get the size of the store, how it grows, and how long it keeps what.
#[utoipa::path(
    get,
    path = "/api/store",
    operation_id = "get_store",
    tag = "settings",
    responses((status = OK, body = StoreReport))
)]
pub async fn store(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
) -> Result<Json<StoreReport>, ErrorReply> {
    Ok(Json(operations.store_report().await?))
}
