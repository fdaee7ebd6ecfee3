//! The conversations of a project, which the public API does not list.

use antiphon_protocol::id::{ConversationId, ProjectId};
use antiphon_runtime::rfc3339;
use antiphon_store::StoredConversation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::page::{DEFAULT_LIMIT, MAX_LIMIT};
use super::{InvalidRequest, OperationError, Operations};
use antiphon_access::query;

/// Which conversations to list.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConversationParameters {
    /// Name of the project.
    pub project: String,
    /// Maximum number of entries.
    #[serde(default, deserialize_with = "query::limit::<_, MAX_LIMIT>")]
    #[param(minimum = 1, maximum = 100, default = 100)]
    pub limit: Option<u32>,
    /// Cursor: the last entry of the previous page.
    pub after: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ConversationList {
    /// Newest first.
    pub conversations: Vec<Conversation>,
    pub has_more: bool,
}

/// A conversation of a project.
#[derive(Debug, Serialize, ToSchema)]
pub struct Conversation {
    #[schema(example = "conv_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b")]
    pub id: String,
    pub project: String,
    /// In RFC 3339, in UTC.
    pub created_at: String,
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// The number of its items.
    pub items: u64,
    /// What it has added to the store, with its deleted items.
    pub size_bytes: u64,
    /// When it was last changed, in RFC 3339, in UTC.
    pub used_at: String,
    /// How long its chain is: responses, and turns of items that were posted or deleted.
    pub turns: u32,
}

// === impl Operations ===

impl Operations {
    /// Newest first; `after` is a conversation's id.
    pub async fn list_conversations(
        &self,
        parameters: &ConversationParameters,
    ) -> Result<ConversationList, OperationError> {
        let ConversationParameters { project, limit, after } = parameters;
        let after = match after.as_deref().filter(|after| !after.is_empty()) {
            None => None,
            Some(id) => Some(parse_cursor(id)?),
        };
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        let mut rows = self.store.list_conversations(&ProjectId::new(project), after, limit + 1).await?;
        let has_more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        Ok(ConversationList { conversations: rows.iter().map(Conversation::new).collect(), has_more })
    }
}

fn parse_cursor(id: &str) -> Result<ConversationId, OperationError> {
    id.parse()
        .map_err(|_| InvalidRequest::value("after", format_args!("the list has no entry '{id}'")).into())
}

// === impl Conversation ===

impl Conversation {
    fn new(row: &StoredConversation) -> Self {
        Self {
            id: row.id.to_string(),
            project: row.project.to_string(),
            created_at: rfc3339(row.created_at),
            metadata: serde_json::from_slice(&row.metadata).unwrap_or_default(),
            items: row.items,
            size_bytes: row.size_bytes,
            used_at: rfc3339(row.used_at),
            turns: row.depth,
        }
    }
}
