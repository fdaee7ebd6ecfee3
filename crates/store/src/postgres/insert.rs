//! What a batch inserts: responses, where their items are found, and rows of the request log.

use std::collections::BTreeMap;

use antiphon_protocol::id::ResponseId;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::assemble::{encode_positions, micros, nano_usd, status_code, tokens, without_nul};
use crate::body::Encoder;
use crate::group::Operation;
use crate::{BackgroundEnd, BackgroundResult, LogRow, Record, Timestamp, checksum};

/// One statement for any number of rows: one round trip, and its own transaction if there is no other.
pub(super) const INSERT: &str = "WITH added AS (
       INSERT INTO responses (id, project, parent_id, account, boundary, upstream_id, model, status, depth, created_at, \
         expires_at, input, referenced, output, body, checksum, body_checksum)
       SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], \
         $8::smallint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bytea[], $13::bytea[], $14::bytea[], \
         $15::bytea[], $16::bigint[], $17::bigint[])),
     found AS (
       INSERT INTO items (item_id, project, response_id, position)
       SELECT * FROM unnest($18::text[], $19::text[], $20::uuid[], $21::bigint[])
       ON CONFLICT (item_id, project) DO UPDATE SET response_id = excluded.response_id, position = excluded.position)
     INSERT INTO request_log (at, response_id, project, account, model, transport, outcome, http_status, code, depth, \
       input_tokens, cached_tokens, output_tokens, reasoning_tokens, duration_us, first_event_us, \
       key_id, attempts, cost_nano_usd)
     SELECT * FROM unnest($22::bigint[], $23::uuid[], $24::text[], $25::text[], $26::text[], $27::text[], $28::text[], \
       $29::bigint[], $30::text[], $31::bigint[], $32::bigint[], $33::bigint[], $34::bigint[], $35::bigint[], \
       $36::bigint[], $37::bigint[], $38::text[], $39::bigint[], $40::bigint[])
     ON CONFLICT DO NOTHING";

/// The rows to insert, each kind in the order of its key, so that replicas that write the same rows don't deadlock.
pub(super) struct Inserts<'a> {
    records: Vec<&'a Record>,
    /// If an item comes twice, the last one wins.
    items: BTreeMap<(&'a str, &'a str), (Uuid, u32)>,
    log: BTreeMap<(i64, Uuid), &'a LogRow>,
}

/// The values of one column as an array, and its type.
pub(super) type Column<'a> = (Box<dyn ToSql + Sync + Send + 'a>, Type);

// === impl Inserts ===

impl<'a> Inserts<'a> {
    pub(super) fn of(batch: &'a [Operation]) -> Self {
        let mut all = Self { records: Vec::new(), items: BTreeMap::new(), log: BTreeMap::new() };
        for operation in batch {
            match operation {
                Operation::Record(record) => all.add_record(record),
                Operation::Log(row, _) => all.add_log(row),
                _ => {}
            }
        }
        all.records.sort_by_key(|record| (record.response.turn.id.uuid(), record.project.as_str()));
        all
    }

    /// What the end of a background turn inserts.
    pub(super) fn of_end(end: &'a BackgroundEnd) -> Self {
        let mut all = Self { records: Vec::new(), items: BTreeMap::new(), log: BTreeMap::new() };
        match &end.result {
            BackgroundResult::Stored(record) => all.add_record(record),
            BackgroundResult::Kept { log, .. } => all.add_log(log),
        }
        all
    }

    fn add_record(&mut self, record: &'a Record) {
        self.records.push(record);
        let response = record.response.turn.id.uuid();
        let items = record.items.iter();
        self.items.extend(
            items.map(|(item, position)| ((item.as_str(), record.project.as_str()), (response, *position))),
        );
        self.add_log(&record.log);
    }

    fn add_log(&mut self, row: &'a LogRow) {
        self.log.entry((row.at.unix_ms(), row.response.uuid())).or_insert(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.log.is_empty()
    }

    /// The arguments of [`INSERT`], in its order.
    pub(super) fn columns(&self, encoder: &mut Encoder) -> Vec<Column<'a>> {
        let mut columns = Vec::with_capacity(40);
        add_responses(&self.records, encoder, &mut columns);
        let items: Vec<_> = self.items.iter().collect();
        columns.extend([
            column(&items, Type::TEXT_ARRAY, |((item_id, _), _)| *item_id),
            column(&items, Type::TEXT_ARRAY, |((_, project), _)| *project),
            column(&items, Type::UUID_ARRAY, |(_, (response, _))| *response),
            column(&items, Type::INT8_ARRAY, |(_, (_, position))| i64::from(*position)),
        ]);
        let log: Vec<&'a LogRow> = self.log.values().copied().collect();
        add_log(&log, &mut columns);
        columns
    }
}

fn add_responses<'a>(records: &[&'a Record], encoder: &mut Encoder, columns: &mut Vec<Column<'a>>) {
    let turns: Vec<_> = records.iter().map(|record| &record.response.turn).collect();
    let bodies: Vec<Vec<u8>> = records.iter().map(|record| encoder.encode(&record.response.body)).collect();
    let body_checksums: Vec<i64> = records.iter().zip(&bodies).map(body_checksum).collect();
    columns.extend([
        column(&turns, Type::UUID_ARRAY, |turn| turn.id.uuid()),
        column(records, Type::TEXT_ARRAY, |record| record.project.as_str()),
        column(&turns, Type::UUID_ARRAY, |turn| turn.parent.map(ResponseId::uuid)),
        column(&turns, Type::TEXT_ARRAY, |turn| &*turn.account),
        column(&turns, Type::TEXT_ARRAY, |turn| &*turn.boundary),
        column(&turns, Type::TEXT_ARRAY, |turn| turn.upstream_id.as_deref()),
        column(&turns, Type::TEXT_ARRAY, |turn| &*turn.model),
        column(&turns, Type::INT2_ARRAY, |turn| status_code(turn.status)),
        column(&turns, Type::INT8_ARRAY, |turn| i64::from(turn.depth)),
        column(records, Type::INT8_ARRAY, |record| record.response.created_at.unix_ms()),
        column(&turns, Type::INT8_ARRAY, |turn| turn.expires_at.map(Timestamp::unix_ms)),
        column(&turns, Type::BYTEA_ARRAY, |turn| &*turn.input),
        column(&turns, Type::BYTEA_ARRAY, |turn| encode_positions(&turn.referenced)),
        column(&turns, Type::BYTEA_ARRAY, |turn| &*turn.output),
        (Box::new(bodies), Type::BYTEA_ARRAY),
        column(records, Type::INT8_ARRAY, |record| checksum::of_turn(&record.project, &record.response.turn)),
        (Box::new(body_checksums), Type::INT8_ARRAY),
    ]);
}

fn body_checksum((record, body): (&&Record, &Vec<u8>)) -> i64 {
    let response = &record.response;
    checksum::of_body(&record.project, response.turn.id, response.created_at, body)
}

fn add_log<'a>(rows: &[&'a LogRow], columns: &mut Vec<Column<'a>>) {
    columns.extend([
        column(rows, Type::INT8_ARRAY, |row| row.at.unix_ms()),
        column(rows, Type::UUID_ARRAY, |row| row.response.uuid()),
        column(rows, Type::TEXT_ARRAY, |row| row.project.as_str()),
        column(rows, Type::TEXT_ARRAY, |row| row.account.as_deref()),
        column(rows, Type::TEXT_ARRAY, |row| without_nul(&row.model)),
        column(rows, Type::TEXT_ARRAY, |row| &*row.transport),
        column(rows, Type::TEXT_ARRAY, |row| &*row.outcome),
        column(rows, Type::INT8_ARRAY, |row| i64::from(row.http_status)),
        column(rows, Type::TEXT_ARRAY, |row| row.code.as_deref().map(without_nul)),
        column(rows, Type::INT8_ARRAY, |row| i64::from(row.depth)),
        column(rows, Type::INT8_ARRAY, |row| tokens(row.input_tokens)),
        column(rows, Type::INT8_ARRAY, |row| tokens(row.cached_tokens)),
        column(rows, Type::INT8_ARRAY, |row| tokens(row.output_tokens)),
        column(rows, Type::INT8_ARRAY, |row| tokens(row.reasoning_tokens)),
        column(rows, Type::INT8_ARRAY, |row| micros(row.duration)),
        column(rows, Type::INT8_ARRAY, |row| row.first_event.map(micros)),
        column(rows, Type::TEXT_ARRAY, |row| row.key.as_deref()),
        column(rows, Type::INT8_ARRAY, |row| i64::from(row.attempts)),
        column(rows, Type::INT8_ARRAY, |row| row.cost_nano_usd.map(nano_usd)),
    ]);
}

fn column<'a, R: Copy, V: ToSql + Sync + Send + 'a>(
    rows: &[R],
    kind: Type,
    value: impl Fn(R) -> V,
) -> Column<'a> {
    (Box::new(rows.iter().copied().map(value).collect::<Vec<V>>()), kind)
}
