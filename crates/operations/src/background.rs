//! Background turns.

use antiphon_access::query;
use antiphon_protocol::id::ResponseId;
use antiphon_runtime::rfc3339;
use antiphon_store::{BackgroundQuery, BackgroundStatus, BackgroundSummary, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::log::KeyNames;
use super::page::{DEFAULT_LIMIT, MAX_LIMIT};
use super::{InvalidRequest, OperationError, Operations};

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BackgroundParameters {
    /// Only turns that have not ended. Default: all whose response or events are kept.
    #[serde(default)]
    pub active: bool,
    /// Cursor: the `id` of the last entry of the previous page.
    pub after: Option<String>,
    /// Maximum number of entries.
    #[serde(default, deserialize_with = "query::limit::<_, MAX_LIMIT>")]
    #[param(minimum = 1, maximum = 100, default = 100)]
    pub limit: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BackgroundList {
    /// Newest first.
    pub turns: Vec<BackgroundView>,
    pub has_more: bool,
}

/// A background turn.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BackgroundTurn)]
pub struct BackgroundView {
    pub id: String,
    pub project: String,
    /// Name of the key; its id if the key is deleted.
    pub key: Option<String>,
    /// `queued`, `in_progress`, or the status of the response.
    pub status: String,
    /// Whether its client asked for a stream.
    pub streamed: bool,
    /// Whether its response is stored at the end, as opposed to kept for a while.
    pub stored: bool,
    pub created_at: String,
    /// How long ago it was created; of a turn that has ended, how long it took.
    pub age_seconds: u64,
    /// When it is cut off.
    pub deadline: String,
    /// The process that runs it.
    pub owner: String,
    /// Whether the owner's lease is valid: without one, another process takes the turn over. `null` once it has ended.
    pub leased: Option<bool>,
    pub attempts: u32,
    pub ended_at: Option<String>,
}

// === impl Operations ===

impl Operations {
    /// Newest first.
    pub async fn list_background(
        &self,
        parameters: &BackgroundParameters,
    ) -> Result<BackgroundList, OperationError> {
        let limit = parameters.limit.unwrap_or(DEFAULT_LIMIT);
        let invalid = || InvalidRequest::value("after", "expected the id of a response");
        let after = parameters.after.as_deref().filter(|after| !after.is_empty());
        let after: Option<ResponseId> = after.map(|id| id.parse().map_err(|_| invalid())).transpose()?;
        let query = BackgroundQuery { id: None, after, is_active: parameters.active, max_rows: limit + 1 };
        let mut rows = self.store.list_background(query).await?;
        let has_more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let (names, now) = (self.key_names(), self.clock.now());
        let turns = rows.iter().map(|turn| BackgroundView::new(turn, &names, now)).collect();
        Ok(BackgroundList { turns, has_more })
    }
}

// === impl BackgroundView ===

impl BackgroundView {
    pub(super) fn new(turn: &BackgroundSummary, names: &KeyNames, now: Timestamp) -> Self {
        let status = match turn.status {
            BackgroundStatus::Queued => "queued",
            BackgroundStatus::InProgress => "in_progress",
            BackgroundStatus::Ended(status) => status.as_str(),
        };
        Self {
            id: turn.id.to_string(),
            project: turn.project.to_string(),
            key: turn.key.as_deref().map(|id| names.of(id)),
            status: status.to_owned(),
            streamed: turn.is_streamed,
            stored: turn.is_stored,
            created_at: rfc3339(turn.created_at),
            age_seconds: turn.ended_at.unwrap_or(now).since(turn.created_at).as_secs(),
            deadline: rfc3339(turn.deadline),
            owner: turn.owner.as_simple().to_string(),
            leased: turn.ended_at.is_none().then_some(turn.lease_until > now),
            attempts: turn.attempts,
            ended_at: turn.ended_at.map(rfc3339),
        }
    }
}
