//! What a batch inserts: responses, where their items are found, and rows of the request log.

use std::collections::{BTreeMap, BTreeSet};

use antiphon_protocol::id::{ConversationId, ProjectId, ResponseId};
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::assemble::{
    encode_locations, encode_positions, micros, nano_usd, status_code, tokens, without_nul,
};
use crate::body::Encoder;
use crate::group::Operation;
use crate::{
    Appended, BackgroundEnd, BackgroundResult, LogRow, Post, Record, StoredTurn, Timestamp, checksum,
};

/// One statement for any number of rows: one round trip, and its own transaction if there is no other. A response whose parent is gone
/// has no depth, which the table refuses: so it costs others little.
pub(super) const INSERT: &str = "WITH added AS (
       INSERT INTO responses (id, project, parent_id, account, boundary, upstream_id, model, status, depth, created_at, \
         expires_at, input, referenced, output, body, checksum, body_checksum, conversation_id, deletes)
       SELECT id, project, parent_id, account, boundary, upstream_id, model, status, \
         CASE WHEN needed_parent IS NULL OR EXISTS (SELECT 1 FROM responses p WHERE p.id = t.needed_parent \
           AND p.project = t.project) THEN depth END, \
         created_at, expires_at, input, referenced, output, body, checksum, body_checksum, conversation_id, deletes
       FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], \
         $8::smallint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bytea[], $13::bytea[], $14::bytea[], \
         $15::bytea[], $16::bigint[], $17::bigint[], $18::text[], $19::bytea[], $47::uuid[]) \
         t (id, project, parent_id, account, boundary, upstream_id, model, status, depth, created_at, expires_at, input, \
           referenced, output, body, checksum, body_checksum, conversation_id, deletes, needed_parent)),
     found AS (
       INSERT INTO items (item_id, project, response_id, position)
       SELECT * FROM unnest($20::text[], $21::text[], $22::uuid[], $23::bigint[])
       ON CONFLICT (item_id, project) DO UPDATE SET response_id = excluded.response_id, position = excluded.position)
     INSERT INTO request_log (at, response_id, project, account, model, transport, outcome, http_status, code, depth, \
       input_tokens, cached_tokens, output_tokens, reasoning_tokens, duration_us, first_event_us, \
       key_id, attempts, cost_nano_usd, estimated, sent_us, attempt_log, reasoning)
     SELECT * FROM unnest($24::bigint[], $25::uuid[], $26::text[], $27::text[], $28::text[], $29::text[], $30::text[], \
       $31::bigint[], $32::text[], $33::bigint[], $34::bigint[], $35::bigint[], $36::bigint[], $37::bigint[], \
       $38::bigint[], $39::bigint[], $40::text[], $41::bigint[], $42::bigint[], $43::bigint[], $44::bigint[], \
       $45::text[], $46::text[])
     ON CONFLICT DO NOTHING";

/// The rows to insert, each kind in the order of its key, so that replicas that write the same rows don't deadlock.
pub(super) struct Inserts<'a> {
    turns: Vec<TurnRow<'a>>,
    /// If an item comes twice, the last one wins.
    items: BTreeMap<(&'a str, &'a str), (Uuid, u32)>,
    log: BTreeMap<(i64, Uuid), &'a LogRow>,
}

/// A turn with its row's other columns.
struct TurnRow<'a> {
    /// Which operation of the batch inserts it.
    operation: usize,
    project: &'a ProjectId,
    turn: &'a StoredTurn,
    created_at: Timestamp,
    /// Compressed.
    body: Vec<u8>,
    /// The conversation that has it: it doesn't expire.
    conversation: Option<ConversationId>,
    /// Without it in the database, the statement fails.
    needed_parent: Option<Uuid>,
}

/// The values of one column as an array, and its type.
pub(super) type Column<'a> = (Box<dyn ToSql + Sync + Send + 'a>, Type);

// === impl TurnRow ===

impl<'a> TurnRow<'a> {
    fn of_record(operation: usize, record: &'a Record, encoder: &mut Encoder) -> Self {
        let response = &record.response;
        Self {
            operation,
            project: &record.project,
            turn: &response.turn,
            created_at: response.created_at,
            body: encoder.encode(&response.body),
            conversation: record.append.as_ref().map(|append| append.conversation),
            needed_parent: record.needed_parent().map(ResponseId::uuid),
        }
    }

    fn expires_at(&self) -> Option<i64> {
        self.turn.expires_at.filter(|_| self.conversation.is_none()).map(Timestamp::unix_ms)
    }
}

// === impl Inserts ===

impl<'a> Inserts<'a> {
    pub(super) fn of(batch: &'a [Operation], encoder: &mut Encoder) -> Self {
        let mut all = Self { turns: Vec::new(), items: BTreeMap::new(), log: BTreeMap::new() };
        for (index, operation) in batch.iter().enumerate() {
            match operation {
                Operation::Record(record) => all.add_record(index, record, encoder),
                Operation::Post(post) => {
                    let Post { project, created_at, append, .. } = &**post;
                    let row = |turn| TurnRow {
                        operation: index,
                        project,
                        turn,
                        created_at: *created_at,
                        body: encoder.encode(b""),
                        conversation: Some(append.conversation),
                        needed_parent: None,
                    };
                    all.turns.extend(post.turns.iter().map(row));
                }
                Operation::Log(row, _) => all.add_log(row),
                _ => {}
            }
        }
        all.turns.sort_by_key(|row| (row.turn.id.uuid(), row.project.as_str()));
        all
    }

    /// What the end of a background turn inserts.
    pub(super) fn of_end(end: &'a BackgroundEnd, encoder: &mut Encoder) -> Self {
        let mut all = Self { turns: Vec::new(), items: BTreeMap::new(), log: BTreeMap::new() };
        match &end.result {
            BackgroundResult::Stored(record) => all.add_record(0, record, encoder),
            BackgroundResult::Kept { log, .. } => all.add_log(log),
        }
        all
    }

    /// Leaves out what is not to be written as a conversation could not be appended to.
    pub(super) fn leave_out(&mut self, refused: &BTreeMap<usize, Appended>) {
        let mut left_out = BTreeSet::new();
        self.turns.retain_mut(|row| match refused.get(&row.operation) {
            None | Some(Appended::Done) => true,
            Some(Appended::Deleted) if row.turn.deletes.is_none() => {
                row.conversation = None;
                true
            }
            Some(_) => {
                left_out.insert(row.turn.id.uuid());
                false
            }
        });
        self.items.retain(|_, (response, _)| !left_out.contains(response));
        self.log.retain(|(_, response), _| !left_out.contains(response));
    }

    fn add_record(&mut self, operation: usize, record: &'a Record, encoder: &mut Encoder) {
        self.turns.push(TurnRow::of_record(operation, record, encoder));
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
        self.turns.is_empty() && self.log.is_empty()
    }

    /// The arguments of [`INSERT`], in its order.
    pub(super) fn columns(self) -> Vec<Column<'a>> {
        let mut columns = Vec::with_capacity(47);
        let needed_parents: Vec<Option<Uuid>> = self.turns.iter().map(|row| row.needed_parent).collect();
        add_turns(self.turns, &mut columns);
        let items: Vec<_> = self.items.iter().collect();
        columns.extend([
            column(&items, Type::TEXT_ARRAY, |((item_id, _), _)| *item_id),
            column(&items, Type::TEXT_ARRAY, |((_, project), _)| *project),
            column(&items, Type::UUID_ARRAY, |(_, (response, _))| *response),
            column(&items, Type::INT8_ARRAY, |(_, (_, position))| i64::from(*position)),
        ]);
        let log: Vec<&'a LogRow> = self.log.values().copied().collect();
        add_log(&log, &mut columns);
        columns.push((Box::new(needed_parents), Type::UUID_ARRAY));
        columns
    }
}

fn add_turns<'a>(rows: Vec<TurnRow<'a>>, columns: &mut Vec<Column<'a>>) {
    let turns: Vec<_> = rows.iter().map(|row| row.turn).collect();
    let column_of = |value: fn(&TurnRow<'a>) -> i64| rows.iter().map(value).collect::<Vec<i64>>();
    let checksums = column_of(|row| checksum::of_turn(row.project, row.turn));
    let body_checksums =
        column_of(|row| checksum::of_body(row.project, row.turn.id, row.created_at, &row.body));
    let created_at = column_of(|row| row.created_at.unix_ms());
    let projects: Vec<&'a str> = rows.iter().map(|row| row.project.as_str()).collect();
    let expires_at: Vec<Option<i64>> = rows.iter().map(TurnRow::expires_at).collect();
    let conversations: Vec<Option<String>> =
        rows.iter().map(|row| row.conversation.map(|id| id.to_string())).collect();
    let bodies: Vec<Vec<u8>> = rows.into_iter().map(|row| row.body).collect();
    columns.extend([
        column(&turns, Type::UUID_ARRAY, |turn| turn.id.uuid()),
        (Box::new(projects), Type::TEXT_ARRAY),
        column(&turns, Type::UUID_ARRAY, |turn| turn.parent.map(ResponseId::uuid)),
        column(&turns, Type::TEXT_ARRAY, |turn| &*turn.account),
        column(&turns, Type::TEXT_ARRAY, |turn| &*turn.boundary),
        column(&turns, Type::TEXT_ARRAY, |turn| turn.upstream_id.as_deref()),
        column(&turns, Type::TEXT_ARRAY, |turn| &*turn.model),
        column(&turns, Type::INT2_ARRAY, |turn| status_code(turn.status)),
        column(&turns, Type::INT8_ARRAY, |turn| i64::from(turn.depth)),
        (Box::new(created_at), Type::INT8_ARRAY),
        (Box::new(expires_at), Type::INT8_ARRAY),
        column(&turns, Type::BYTEA_ARRAY, |turn| &*turn.input),
        column(&turns, Type::BYTEA_ARRAY, |turn| encode_positions(&turn.referenced)),
        column(&turns, Type::BYTEA_ARRAY, |turn| &*turn.output),
        (Box::new(bodies), Type::BYTEA_ARRAY),
        (Box::new(checksums), Type::INT8_ARRAY),
        (Box::new(body_checksums), Type::INT8_ARRAY),
        (Box::new(conversations), Type::TEXT_ARRAY),
        column(&turns, Type::BYTEA_ARRAY, |turn| turn.deletes.as_deref().map(encode_locations)),
    ]);
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
        column(rows, Type::INT8_ARRAY, |row| i64::from(row.is_estimated)),
        column(rows, Type::INT8_ARRAY, |row| row.sent.map(micros)),
        column(rows, Type::TEXT_ARRAY, |row| row.attempt_log.as_deref()),
        column(rows, Type::TEXT_ARRAY, |row| row.reasoning.as_deref()),
    ]);
}

fn column<'a, R: Copy, V: ToSql + Sync + Send + 'a>(
    rows: &[R],
    kind: Type,
    value: impl Fn(R) -> V,
) -> Column<'a> {
    (Box::new(rows.iter().copied().map(value).collect::<Vec<V>>()), kind)
}
