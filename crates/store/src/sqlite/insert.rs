//! What a batch only inserts: responses, where their items are found, and rows of the request log.

use antiphon_protocol::id::{ItemId, ResponseId};
use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;

use super::rows::Rows;
use super::status_code;
use crate::body::Encoder;
use crate::group::Operation;
use crate::{LogRow, Record, Timestamp};

pub(super) const INSERT_RESPONSES: Rows = Rows {
    head: "INSERT INTO responses (id, project, parent_id, account, boundary, upstream_id, model, status, depth, \
           created_at, expires_at, input, referenced, output, body) SELECT * FROM (VALUES",
    row: "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    tail: ") WHERE column1 IS NOT NULL;",
    max: 256,
};

pub(super) const INSERT_ITEMS: Rows = Rows {
    head: "INSERT INTO items (item_id, project, response_id, position) SELECT * FROM (VALUES",
    row: "(?,?,?,?)",
    tail: ") WHERE column1 IS NOT NULL ON CONFLICT (item_id, project) \
           DO UPDATE SET response_id = excluded.response_id, position = excluded.position;",
    max: 512,
};

pub(super) const INSERT_LOG: Rows = Rows {
    head: "INSERT INTO request_log (at, response_id, project, account, model, transport, outcome, http_status, code, \
           depth, input_tokens, cached_tokens, output_tokens, reasoning_tokens, duration_us, first_event_us) \
           SELECT * FROM (VALUES",
    row: "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    tail: ") WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING;",
    max: 256,
};

/// What is still to be inserted.
pub(super) struct Inserts<'a> {
    responses: Vec<&'a Record>,
    items: Vec<(&'a Record, &'a (ItemId, u32))>,
    log: Vec<&'a LogRow>,
}

// === impl Inserts ===

impl<'a> Inserts<'a> {
    pub(super) fn of(batch: &'a [Operation]) -> Self {
        let mut all = Self { responses: Vec::new(), items: Vec::new(), log: Vec::new() };
        for operation in batch {
            match operation {
                Operation::Record(record) => {
                    all.responses.push(record);
                    all.items.extend(record.items.iter().map(|item| (&**record, item)));
                    all.log.push(&record.log);
                }
                Operation::Log(row) => all.log.push(row),
                Operation::Delete { .. } | Operation::Purge { .. } | Operation::Check => {}
            }
        }
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.responses.is_empty() && self.items.is_empty() && self.log.is_empty()
    }

    /// Appends the statements for as much as they have room for, and returns their arguments.
    pub(super) fn take(
        &mut self,
        text: &mut String,
        encoder: &mut Encoder,
    ) -> Result<SqliteArguments, sqlx::Error> {
        let mut arguments = SqliteArguments::default();
        take(&INSERT_RESPONSES, &mut self.responses, text, &mut arguments, |record, row| {
            add_response(record, encoder, row)
        })?;
        take(&INSERT_ITEMS, &mut self.items, text, &mut arguments, |(record, item), row| {
            add_item(record, item, row)
        })?;
        take(&INSERT_LOG, &mut self.log, text, &mut arguments, |log, row| add_log_row(log, row))?;
        Ok(arguments)
    }
}

fn take<T>(
    rows: &Rows,
    values: &mut Vec<T>,
    text: &mut String,
    arguments: &mut SqliteArguments,
    add: impl FnMut(&T, &mut SqliteArguments) -> Result<(), BoxDynError>,
) -> Result<(), sqlx::Error> {
    let taken = rows.take(values);
    if taken.is_empty() {
        return Ok(());
    }
    rows.write(taken.len(), text);
    rows.bind(&taken, arguments, add)
}

fn add_response(
    record: &Record,
    encoder: &mut Encoder,
    row: &mut SqliteArguments,
) -> Result<(), BoxDynError> {
    let response = &record.response;
    let turn = &response.turn;
    row.add(turn.id.uuid())?;
    row.add(record.project.as_str())?;
    row.add(turn.parent.map(ResponseId::uuid))?;
    row.add(&*turn.account)?;
    row.add(&*turn.boundary)?;
    row.add(turn.upstream_id.as_deref())?;
    row.add(&*turn.model)?;
    row.add(status_code(turn.status))?;
    row.add(turn.depth)?;
    row.add(response.created_at.unix_ms())?;
    row.add(turn.expires_at.map(Timestamp::unix_ms))?;
    row.add(&*turn.input)?;
    row.add((!turn.referenced.is_empty()).then(|| format!("{:?}", turn.referenced).into_bytes()))?;
    row.add(&*turn.output)?;
    row.add(encoder.encode(&response.body))
}

fn add_item(record: &Record, item: &(ItemId, u32), row: &mut SqliteArguments) -> Result<(), BoxDynError> {
    let (item_id, position) = item;
    row.add(item_id.as_str())?;
    row.add(record.project.as_str())?;
    row.add(record.response.turn.id.uuid())?;
    row.add(*position)
}

fn add_log_row(log: &LogRow, row: &mut SqliteArguments) -> Result<(), BoxDynError> {
    let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    row.add(log.at.unix_ms())?;
    row.add(log.response.uuid())?;
    row.add(log.project.as_str())?;
    row.add(log.account.as_deref())?;
    row.add(&*log.model)?;
    row.add(&*log.transport)?;
    row.add(&*log.outcome)?;
    row.add(log.http_status)?;
    row.add(log.code.as_deref())?;
    row.add(log.depth)?;
    row.add(count(log.input_tokens))?;
    row.add(count(log.cached_tokens))?;
    row.add(count(log.output_tokens))?;
    row.add(count(log.reasoning_tokens))?;
    row.add(micros(log.duration))?;
    row.add(log.first_event.map(micros))
}
