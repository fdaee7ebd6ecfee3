//! The request log.

use std::collections::HashMap;

use antiphon_access::query;
use antiphon_protocol::id::{KeyId, ResponseId};
use antiphon_runtime::{hex, parse_rfc3339, rfc3339};
use antiphon_store::{LogPosition, LogQuery, LogRow, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::page::{DEFAULT_LIMIT, MAX_LIMIT};
use super::{InvalidRequest, OperationError, Operations};

/// How a turn can have ended.
pub const OUTCOMES: [&str; 8] =
    ["completed", "incomplete", "failed", "cancelled", "refused", "lost", "compacted", "counted"];

/// Which turns to list: those that meet all conditions.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogParameters {
    /// Name or id of a key.
    pub key: Option<String>,
    pub account: Option<String>,
    pub model: Option<String>,
    /// `completed`, `incomplete`, `failed`, `cancelled`, `refused`, `lost`, `compacted` or `counted`.
    pub outcome: Option<String>,
    /// Error code sent to the client.
    pub code: Option<String>,
    pub project: Option<String>,
    /// The id of a response: at most one turn.
    pub id: Option<String>,
    /// Only turns that began then or later: an RFC 3339 time.
    pub since: Option<String>,
    /// Only turns that began before.
    pub until: Option<String>,
    /// Cursor: `after` of the previous page.
    pub after: Option<String>,
    /// Maximum number of entries.
    #[serde(default, deserialize_with = "query::limit::<_, MAX_LIMIT>")]
    #[param(minimum = 1, maximum = 100, default = 100)]
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogList {
    /// Newest first.
    pub turns: Vec<LoggedTurn>,
    /// Whether there may be more: a search reads a bounded number of turns, so a page may be short, or empty, and not the last.
    pub has_more: bool,
    /// Cursor of the next page; `null` on the last page.
    pub after: Option<String>,
    /// How far back the search has come, in RFC 3339; `null` on the last page.
    pub searched_until: Option<String>,
}

/// A turn in the request log.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = LogEntry)]
pub struct LoggedTurn {
    #[schema(example = "resp_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b")]
    pub id: String,
    /// When it began, in RFC 3339.
    pub at: String,
    pub project: String,
    /// Name of the key; its id if the key is deleted.
    pub key: Option<String>,
    /// Account that served the turn, or was tried last.
    pub account: Option<String>,
    pub model: String,
    /// `http`, `sse`, `websocket` or `background`.
    pub transport: String,
    pub outcome: String,
    /// HTTP status sent to the client.
    pub http_status: u16,
    /// Error code sent to the client.
    pub code: Option<String>,
    /// Its depth in its chain; the root's is 1.
    pub depth: u32,
    pub attempts: u32,
    pub input_tokens: u64,
    /// Included in `input_tokens`.
    pub cached_tokens: u64,
    pub output_tokens: u64,
    /// Included in `output_tokens`.
    pub reasoning_tokens: u64,
    /// In US dollars; `null` if the model has no price.
    pub cost_usd: Option<f64>,
    pub duration_ms: f64,
    pub first_event_ms: Option<f64>,
    /// When the last attempt began, after the start of the turn: before, it waited for an account or failed on others.
    pub sent_ms: Option<f64>,
    /// Whether the account got all encrypted items of the chain: `full`, `stripped` or `rebuilt`.
    pub reasoning: Option<String>,
}

/// One attempt of a turn at an account. Times are milliseconds after the start of the turn.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AttemptView {
    pub account: String,
    /// `answered`, or why it failed.
    pub outcome: String,
    pub began_ms: f64,
    /// An attempt that was answered ends with the first event.
    pub ended_ms: f64,
    /// How long it took to connect: TCP, TLS, and the handshake of a WebSocket. Absent if a connection was reused, or none came
    /// about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<f64>,
}

#[derive(Deserialize)]
struct StoredAttempt {
    account: String,
    outcome: String,
    began_us: u64,
    ended_us: u64,
    connect_us: Option<u64>,
}

/// Names of keys by their ids.
pub(super) struct KeyNames(HashMap<String, String>);

// === impl Operations ===

impl Operations {
    /// A page of the request log, newest first.
    pub async fn list_log(&self, parameters: LogParameters) -> Result<LogList, OperationError> {
        let names = self.key_names();
        if let Some(text) = &parameters.id {
            let id: ResponseId =
                text.parse().map_err(|_| InvalidRequest::value("id", "expected the id of a response"))?;
            let row = self.store.find_log_row(id).await?;
            let turns = row.iter().map(|row| LoggedTurn::new(row, &names)).collect();
            return Ok(LogList { turns, has_more: false, after: None, searched_until: None });
        }
        let query = self.log_query(parameters).await?;
        let permit = self.report_permit().await?;
        let page = self.store.search_log(query).await?;
        drop(permit);
        Ok(LogList {
            turns: page.rows.iter().map(|row| LoggedTurn::new(row, &names)).collect(),
            has_more: page.next.is_some(),
            after: page.next.map(write_cursor),
            searched_until: page.next.map(|next| rfc3339(next.at)),
        })
    }

    async fn log_query(&self, parameters: LogParameters) -> Result<LogQuery, OperationError> {
        let time = |name: &'static str, text: Option<String>| {
            let invalid = || InvalidRequest::value(name, "expected an RFC 3339 time with a time zone");
            // In a URL, an unescaped plus sign stands for a space.
            let parse = |text: String| parse_rfc3339(&text.replace(' ', "+")).ok_or_else(invalid);
            text.map(parse).transpose()
        };
        let LogParameters { key, account, model, outcome, code, project, since, until, after, limit, .. } =
            parameters;
        let after = after.filter(|after| !after.is_empty());
        let not_empty = |name: Option<String>| name.filter(|name| !name.is_empty());
        Ok(LogQuery {
            key: match not_empty(key) {
                Some(key) => Some(self.key_id(&key).await?),
                None => None,
            },
            account: not_empty(account),
            model: not_empty(model),
            outcome: not_empty(outcome).map(known_outcome).transpose()?,
            code: not_empty(code),
            project: not_empty(project),
            since: time("since", not_empty(since))?,
            until: time("until", not_empty(until))?,
            after: after.as_deref().map(parse_cursor).transpose()?,
            max_rows: limit.unwrap_or(DEFAULT_LIMIT),
        })
    }

    /// The id of the key with this name. An id stands for itself, as its key may be deleted.
    pub(super) async fn key_id(&self, name: &str) -> Result<String, OperationError> {
        if name.parse::<KeyId>().is_ok() {
            return Ok(name.to_owned());
        }
        Ok(self.find_key(name).await?.id.to_string())
    }

    pub(super) fn key_names(&self) -> KeyNames {
        KeyNames(self.keys.all().iter().map(|key| (key.id.to_string(), key.name.clone())).collect())
    }
}

fn known_outcome(name: String) -> Result<String, InvalidRequest> {
    if OUTCOMES.contains(&&*name) {
        return Ok(name);
    }
    Err(InvalidRequest::value("outcome", format!("expected one of {}", OUTCOMES.join(", "))))
}

fn write_cursor(position: LogPosition) -> String {
    hex::encode([&position.at.unix_ms().to_be_bytes()[..], position.response.as_bytes()].concat())
}

fn parse_cursor(text: &str) -> Result<LogPosition, InvalidRequest> {
    let bytes = u64::from_str_radix(text.get(..16).unwrap_or_default(), 16).ok();
    let at = bytes.and_then(|at| i64::try_from(at).ok());
    let response = text.get(16..).filter(|hex| hex.len() == 32).and_then(|hex| Uuid::try_parse(hex).ok());
    let position = at.zip(response);
    position
        .map(|(at, response)| LogPosition { at: Timestamp::from_unix_ms(at), response })
        .ok_or_else(|| InvalidRequest::value("after", "expected the cursor of a page"))
}

fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

// === impl KeyNames ===

impl KeyNames {
    /// The id itself if its key is deleted.
    pub fn of(&self, id: &str) -> String {
        self.0.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }
}

// === impl LoggedTurn ===

impl LoggedTurn {
    pub(super) fn new(row: &LogRow, names: &KeyNames) -> Self {
        Self {
            id: row.response.to_string(),
            at: rfc3339(row.at),
            project: row.project.to_string(),
            key: row.key.as_deref().map(|id| names.of(id)),
            account: row.account.clone(),
            model: row.model.clone(),
            transport: row.transport.to_string(),
            outcome: row.outcome.to_string(),
            http_status: row.http_status,
            code: row.code.clone(),
            depth: row.depth,
            attempts: row.attempts,
            input_tokens: row.input_tokens,
            cached_tokens: row.cached_tokens,
            output_tokens: row.output_tokens,
            reasoning_tokens: row.reasoning_tokens,
            cost_usd: row.cost_nano_usd.map(|nano| nano as f64 / 1e9),
            duration_ms: milliseconds(row.duration),
            first_event_ms: row.first_event.map(milliseconds),
            sent_ms: row.sent.map(milliseconds),
            reasoning: row.reasoning.as_deref().map(str::to_owned),
        }
    }
}

// === impl AttemptView ===

impl AttemptView {
    /// The attempts of a turn. Of a single one over a connection that was open, the row itself says all there is.
    pub(super) fn list(row: &LogRow) -> Vec<Self> {
        let stored: Vec<StoredAttempt> =
            row.attempt_log.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        if !stored.is_empty() {
            let view = |attempt: StoredAttempt| Self {
                account: attempt.account,
                outcome: attempt.outcome,
                began_ms: attempt.began_us as f64 / 1e3,
                ended_ms: attempt.ended_us as f64 / 1e3,
                connect_ms: attempt.connect_us.map(|micros| micros as f64 / 1e3),
            };
            return stored.into_iter().map(view).collect();
        }
        let (Some(account), Some(sent)) = (&row.account, row.sent) else { return Vec::new() };
        let outcome = if row.first_event.is_some() { "answered" } else { "failed" };
        vec![Self {
            account: account.clone(),
            outcome: outcome.to_owned(),
            began_ms: milliseconds(sent),
            ended_ms: milliseconds(row.first_event.unwrap_or(row.duration)),
            connect_ms: None,
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_other_versions_have_written_are_read() {
        let read = |more: &str| {
            let text = format!(
                "[{{\"account\":\"a\",\"outcome\":\"answered\",\"began_us\":1,\"ended_us\":2{more}}}]"
            );
            serde_json::from_str::<Vec<StoredAttempt>>(&text).unwrap().remove(0).connect_us
        };
        assert_eq!(read(""), None);
        assert_eq!(read(",\"connect_us\":1,\"later\":{}"), Some(1));
    }
}
