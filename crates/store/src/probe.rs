//! Finds out whether a turn could be served and stored: writes to every table that a turn needs, and reads from it.

use std::hash::{BuildHasher, RandomState};

use uuid::Uuid;

use crate::StoreError;
use crate::sql::{Argument, Database, Kind, Query, Statement, bytes, id, text};

/// It needs pages of its own, which a full disk refuses.
const LARGE_TEXT_BYTES: usize = 32 << 10;

const RESPONSE: [&str; 2] = [
    "INSERT INTO responses (id, project, depth, created_at, status, account, boundary, model, input, output, body) \
     VALUES ($1, '', 1, 0, 0, '', '', '', $2, $2, $2)",
    "DELETE FROM responses WHERE id = $1 AND project = ''",
];
const ITEM: [&str; 2] = [
    "INSERT INTO items (item_id, project, response_id, position) VALUES ($1, '', $2, 0)",
    "DELETE FROM items WHERE item_id = $1 AND project = '' AND response_id = $2",
];
const LOG: [&str; 2] = [
    "INSERT INTO request_log (at, response_id, project, model, transport, outcome, http_status, depth, input_tokens, \
     cached_tokens, output_tokens, reasoning_tokens, duration_us) VALUES (-1, $1, '', $2, '', '', 0, 0, 0, 0, 0, 0, 0)",
    "DELETE FROM request_log WHERE at = -1 AND response_id = $1",
];
const RESERVATION: [&str; 2] = [
    "INSERT INTO reservations (id, expires_at, holds) VALUES ($1, 0, '[]')",
    "DELETE FROM reservations WHERE id = $1",
];
const COUNTER: [&str; 2] = [
    "INSERT INTO counters (scope, rule, window_start, window_end, used, held) VALUES ($1, '', 0, 0, 0, 0)",
    "DELETE FROM counters WHERE scope = $1 AND rule = '' AND window_start = 0",
];

const READ: &str = "SELECT coalesce((SELECT length(body) FROM responses ORDER BY id DESC, project DESC LIMIT 1), 0) \
     + coalesce((SELECT position FROM items ORDER BY item_id DESC, project DESC LIMIT 1), 0) \
     + coalesce((SELECT depth FROM request_log ORDER BY at DESC, response_id DESC LIMIT 1), 0) \
     + coalesce((SELECT length(holds) FROM reservations ORDER BY id DESC LIMIT 1), 0) \
     + coalesce((SELECT held - held FROM counters ORDER BY scope, rule, window_start LIMIT 1), 0)";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 11] = [
    READ,
    RESPONSE[0],
    RESPONSE[1],
    ITEM[0],
    ITEM[1],
    LOG[0],
    LOG[1],
    RESERVATION[0],
    RESERVATION[1],
    COUNTER[0],
    COUNTER[1],
];

pub(crate) async fn check<D: Database>(database: &D) -> Result<(), StoreError> {
    database.query(Query { text: READ, arguments: Vec::new(), columns: &[Kind::Number] }).await?;
    let own = row_id();
    let name = || text(own.to_string());
    let pairs: [([&'static str; 2], [Vec<Argument>; 2]); 5] = [
        (RESPONSE, [vec![id(own), bytes(Vec::new())], vec![id(own)]]),
        (ITEM, [vec![name(), id(own)], vec![name(), id(own)]]),
        (LOG, [vec![id(own), text("m".repeat(LARGE_TEXT_BYTES))], vec![id(own)]]),
        (RESERVATION, [vec![id(own)], vec![id(own)]]),
        (COUNTER, [vec![name()], vec![name()]]),
    ];
    let statements = pairs.into_iter().flat_map(|(texts, arguments)| {
        texts.into_iter().zip(arguments).map(|(text, arguments)| Statement::new(text, arguments))
    });
    database.group().execute_all(statements.collect()).await.map(|_| ())
}

/// Where the next turn's rows go, behind those of all others; and other than those of another replica's check.
fn row_id() -> Uuid {
    let random = u128::from(RandomState::new().hash_one(0));
    Uuid::from_u128(u128::MAX << 64 | random)
}
