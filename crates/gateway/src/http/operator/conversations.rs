//! `/api/conversations`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Operator;
use super::request::Parameters;
use crate::http::error_reply::ErrorReply;
use crate::operations::{ConversationList, ConversationParameters, Operations};

/// List the conversations of a project, newest first. `after` is a conversation's `id`.
#[utoipa::path(
    get,
    path = "/api/conversations",
    operation_id = "list_conversations",
    tag = "conversations",
    params(ConversationParameters),
    responses((status = OK, body = ConversationList))
)]
pub async fn list(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    Parameters(parameters): Parameters<ConversationParameters>,
) -> Result<Json<ConversationList>, ErrorReply> {
    Ok(Json(operations.list_conversations(&parameters).await?))
}
