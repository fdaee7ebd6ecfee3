//! `/api/conversations`.

use std::sync::Arc;

use antiphon_operations::{
    Chain, ConversationList, ConversationParameters, ConversationTurnParameters, Operations,
};
use axum::Json;
use axum::extract::State;

use super::Operator;
use super::request::Parameters;
use crate::http::error_reply::ErrorReply;
use crate::http::path_segment::PathSegment;

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

/// Get the turns of a conversation: its chain, from the root to the newest turn.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/turns",
    operation_id = "list_conversation_turns",
    tag = "conversations",
    params(("id" = String, Path), ConversationTurnParameters),
    responses((status = OK, body = Chain))
)]
pub async fn turns(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    PathSegment(id): PathSegment,
    Parameters(parameters): Parameters<ConversationTurnParameters>,
) -> Result<Json<Chain>, ErrorReply> {
    Ok(Json(operations.conversation_turns(&id, &parameters).await?))
}
