//! The request log: one row a turn, also for turns that stored nothing.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_protocol::id::{ProjectId, ResponseId};
use async_trait::async_trait;

use crate::sql::{Columns, Database, Kind, Query, number};
use crate::{LogPage, LogQuery, StoreError, Timestamp, log_search};

/// One turn in the request log. Never holds payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    pub at: Timestamp,
    pub project: ProjectId,
    pub response: ResponseId,
    /// The id of the key that the turn came with.
    pub key: Option<String>,
    pub account: Option<String>,
    pub model: String,
    /// `http`, `sse` or `websocket`.
    pub transport: Cow<'static, str>,
    /// A response status, or `refused` when the turn yielded no response.
    pub outcome: Cow<'static, str>,
    /// The HTTP status sent to the client.
    pub http_status: u16,
    /// The error code sent to the client.
    pub code: Option<String>,
    pub depth: u32,
    /// How many times the turn was sent to an upstream.
    pub attempts: u32,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    /// Whether the tokens were estimated, because the upstream reported none.
    pub is_estimated: bool,
    /// In billionths of a US dollar; `None` for tokens of a model without a price.
    pub cost_nano_usd: Option<u64>,
    pub duration: Duration,
    /// From the start of the turn to its first event.
    pub first_event: Option<Duration>,
    /// From the start of the turn to the beginning of its last attempt.
    pub sent: Option<Duration>,
    /// All attempts, if there were several: a JSON array.
    pub attempt_log: Option<String>,
    /// What the account got of the encrypted items of the chain: `full`, `stripped` or `rebuilt`.
    pub reasoning: Option<Cow<'static, str>>,
}

/// The request log.
#[async_trait]
pub trait RequestLog: Send + Sync {
    /// Queues a row, which is written soon, together with others. Returns at once. While the store is unavailable rows are
    /// kept; those beyond a bound are lost, and counted.
    fn append_log(&self, row: LogRow);

    /// How many rows were lost since the store was opened.
    fn lost_rows(&self) -> u64;

    /// The earliest time in the rows that this process has written since the last call.
    fn take_earliest_written(&self) -> Option<Timestamp>;

    /// The newest rows first.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn list_log(&self, max_rows: u32) -> Result<Vec<LogRow>, StoreError>;

    /// A page of the rows that meet the query's conditions, the newest first. Reads a bounded number of rows.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn search_log(&self, query: LogQuery) -> Result<LogPage, StoreError>;
}

const LIST: &str = "SELECT at, response_id, project, key_id, account, model, transport, outcome, http_status, code, \
     depth, attempts, input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd, duration_us, \
     first_event_us, estimated, sent_us, attempt_log, reasoning FROM request_log ORDER BY at DESC, response_id DESC LIMIT $1";

/// The time of the newest row to purge.
pub(crate) const NEWEST_TO_PURGE: &str =
    "SELECT max(at) FROM (SELECT at FROM request_log WHERE at < $1 ORDER BY at LIMIT $2) oldest";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 2] = [LIST, NEWEST_TO_PURGE];

pub(crate) const COLUMNS: [Kind; 23] = {
    use Kind::{Id, Number, Text};
    [
        Number, Id, Text, Text, Text, Text, Text, Text, Number, Text, Number, Number, Number, Number, Number,
        Number, Number, Number, Number, Number, Number, Text, Text,
    ]
};

#[async_trait]
impl<D: Database> RequestLog for D {
    fn append_log(&self, row: LogRow) {
        self.group().append_log(row);
    }

    fn lost_rows(&self) -> u64 {
        self.group().lost_rows()
    }

    fn take_earliest_written(&self) -> Option<Timestamp> {
        self.group().take_earliest_written()
    }

    async fn list_log(&self, max_rows: u32) -> Result<Vec<LogRow>, StoreError> {
        let arguments = vec![number(i64::from(max_rows))];
        let rows = self.query(Query { text: LIST, arguments, columns: &COLUMNS }).await?;
        rows.into_iter().map(log_row).collect()
    }

    async fn search_log(&self, query: LogQuery) -> Result<LogPage, StoreError> {
        log_search::search(self, &query).await
    }
}

pub(crate) fn log_row(mut row: Columns) -> Result<LogRow, StoreError> {
    let micros = |number: i64| Duration::from_micros(number.unsigned_abs());
    Ok(LogRow {
        at: Timestamp::from_unix_ms(row.number()?),
        response: ResponseId::from_uuid(row.id()?),
        project: ProjectId::new(&row.text()?),
        key: row.optional_text(),
        account: row.optional_text(),
        model: row.text()?,
        transport: row.text()?.into(),
        outcome: row.text()?.into(),
        http_status: row.integer()?,
        code: row.optional_text(),
        depth: row.integer()?,
        attempts: row.optional_number().and_then(|number| number.try_into().ok()).unwrap_or(0),
        input_tokens: row.integer()?,
        cached_tokens: row.integer()?,
        output_tokens: row.integer()?,
        reasoning_tokens: row.integer()?,
        cost_nano_usd: row.optional_number().map(i64::unsigned_abs),
        duration: micros(row.number()?),
        first_event: row.optional_number().map(micros),
        is_estimated: row.number()? != 0,
        sent: row.optional_number().map(micros),
        attempt_log: row.optional_text(),
        reasoning: row.optional_text().map(Cow::Owned),
    })
}

// === impl LogRow ===

#[cfg(test)]
impl LogRow {
    /// A row with the smallest possible content.
    pub(crate) fn bare(at: Timestamp, response: ResponseId) -> Self {
        Self {
            at,
            project: ProjectId::new("p"),
            response,
            key: None,
            account: None,
            model: String::new(),
            transport: "http".into(),
            outcome: "completed".into(),
            http_status: 200,
            code: None,
            depth: 1,
            attempts: 1,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            reasoning_tokens: 0,
            is_estimated: false,
            cost_nano_usd: None,
            duration: Duration::ZERO,
            first_event: None,
            sent: None,
            attempt_log: None,
            reasoning: None,
        }
    }
}
