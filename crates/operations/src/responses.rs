//! One response of any project, for operators.

use antiphon_access::audit::{Actor, entry};
use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_runtime::offload::offload_if_long;
use antiphon_runtime::rfc3339;
use antiphon_store::{BackgroundQuery, ChainQuery, StoreError, TurnSummary};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::background::BackgroundView;
use super::log::{AttemptView, LoggedTurn};
use super::{OperationError, Operations};

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ResponseParameters {
    /// Also return the items and the response object. Each such view is in the audit log.
    #[serde(default)]
    pub bodies: bool,
}

/// What is known of a response. At least one of `stored`, `background` and `turn` is not `null`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ResponseDetail)]
pub struct ResponseDetail {
    pub id: String,
    pub project: String,
    /// The stored response; `null` if it was not stored, or is purged.
    pub stored: Option<StoredDetail>,
    /// The background turn, while it runs and for a while after.
    pub background: Option<BackgroundView>,
    /// The turn in the request log; `null` while it runs, and once the log is purged.
    pub turn: Option<LoggedTurn>,
    /// Attempts at accounts, in order.
    pub attempts: Vec<AttemptView>,
    /// Only if asked for.
    pub bodies: Option<Bodies>,
}

/// A stored response without its items.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredDetail {
    /// `completed`, `incomplete`, `failed` or `cancelled`.
    pub status: String,
    pub model: String,
    pub parent: Option<String>,
    pub conversation: Option<String>,
    /// Its depth in its chain; the root's is 1.
    pub depth: u32,
    pub account: String,
    /// The accounts that can read its encrypted items.
    pub boundary: String,
    /// The upstream's own id of the response.
    pub upstream_id: Option<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub deleted_at: Option<String>,
    pub input_bytes: u64,
    pub output_bytes: u64,
}

/// What the client sent and received.
#[derive(Debug, Serialize, ToSchema)]
pub struct Bodies {
    /// The turn's own input items.
    #[schema(value_type = Vec<Object>)]
    pub input: Box<RawValue>,
    #[schema(value_type = Vec<Object>)]
    pub output: Box<RawValue>,
    /// The response object without its output; `null` once it is deleted or has expired.
    #[schema(value_type = Option<Object>)]
    pub response: Option<Box<RawValue>>,
}

// === impl Bodies ===

impl Bodies {
    pub fn size_bytes(&self) -> usize {
        let all = [Some(&self.input), Some(&self.output), self.response.as_ref()];
        all.into_iter().flatten().map(|body| body.get().len()).sum()
    }
}

// === impl Operations ===

impl Operations {
    /// What is known of a response, without its items.
    pub async fn response(&self, id: &str) -> Result<ResponseDetail, OperationError> {
        let id = parse_response_id(id)?;
        let project = self.store.find_project(id).await?;
        let stored = match &project {
            Some(project) => self.store.list_turns(project, id, 1).await?.pop(),
            None => None,
        };
        let log = match stored.as_ref().and_then(|turn| turn.log.clone()) {
            Some(row) => Some(row),
            None => self.store.find_log_row(id).await?,
        };
        let query = BackgroundQuery { id: Some(id), max_rows: 1, ..BackgroundQuery::default() };
        let background = self.store.list_background(query).await?.pop();
        let project = project
            .or_else(|| log.as_ref().map(|row| row.project.clone()))
            .or_else(|| background.as_ref().map(|turn| turn.project.clone()));
        let not_found = || OperationError::ResponseNotFound(id.to_string());
        let names = self.key_names();
        Ok(ResponseDetail {
            id: id.to_string(),
            project: project.ok_or_else(not_found)?.to_string(),
            stored: stored.as_ref().map(StoredDetail::new),
            background: background.map(|turn| BackgroundView::new(&turn, &names, self.clock.now())),
            turn: log.as_ref().map(|row| LoggedTurn::new(row, &names)),
            attempts: log.as_ref().map(AttemptView::list).unwrap_or_default(),
            bodies: None,
        })
    }

    /// As [`response`](Self::response), with the items and the response object. Only for admins: the view is in the audit log before
    /// anything is returned.
    pub async fn response_with_bodies(
        &self,
        id: &str,
        actor: Actor<'_>,
    ) -> Result<ResponseDetail, OperationError> {
        let mut detail = self.response(id).await?;
        let (id, project) = (parse_response_id(id)?, ProjectId::new(&detail.project));
        if detail.stored.is_none() {
            return Ok(detail);
        }
        let audit = entry(&*self.clock, actor, "response.viewed", &detail.id)
            .detail(&serde_json::json!({ "project": detail.project }));
        self.store.add_audit(audit).await?;
        let query = ChainQuery { from: id, visible_at: None, max_turns: 1 };
        let Some(turn) = self.store.load_chain(&project, query).await?.pop() else { return Ok(detail) };
        let response = self.store.load(&project, id, self.clock.now()).await?;
        let size_bytes = turn.items_bytes();
        let read = move || Bodies {
            input: raw(&turn.input),
            output: raw(&turn.output),
            response: response.map(|response| raw(&response.body)),
        };
        let bodies = offload_if_long(size_bytes, read)
            .await
            .map_err(|_| StoreError::Corrupt(format!("the items of response {id} cannot be read")))?;
        detail.bodies = Some(bodies);
        Ok(detail)
    }
}

pub(super) fn parse_response_id(text: &str) -> Result<ResponseId, OperationError> {
    text.parse().map_err(|_| OperationError::ResponseNotFound(text.chars().take(100).collect()))
}

/// Stored JSON, byte for byte; `null` for what is none.
fn raw(json: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(json).into_owned();
    RawValue::from_string(text)
        .unwrap_or_else(|_| serde_json::value::to_raw_value(&Value::Null).expect("null is JSON"))
}

// === impl StoredDetail ===

impl StoredDetail {
    fn new(turn: &TurnSummary) -> Self {
        Self {
            status: turn.status.as_str().to_owned(),
            model: turn.model.clone(),
            parent: turn.parent.map(|parent| parent.to_string()),
            conversation: turn.conversation.clone(),
            depth: turn.depth,
            account: turn.account.clone(),
            boundary: turn.boundary.clone(),
            upstream_id: turn.upstream_id.clone(),
            created_at: rfc3339(turn.created_at),
            expires_at: turn.expires_at.map(rfc3339),
            deleted_at: turn.deleted_at.map(rfc3339),
            input_bytes: turn.input_bytes,
            output_bytes: turn.output_bytes,
        }
    }
}
