//! Verifies every response by its checksums and its place in its chain.

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use antiphon_protocol::replay::Segment;
use antiphon_protocol::{item, json};
use futures_util::future::join_all;
use uuid::Uuid;

use super::{PAGE, Verifier, VerifyProgress, VerifyStep};
use crate::assemble::{decode_locations, decode_positions, status_of};
use crate::sql::{Columns, Kind, Query, id, number, text};
use crate::{StoreError, StoredTurn, Timestamp, body, checksum};

const COUNT: &str = "SELECT count(*) FROM responses";

const KEYS: &str =
    "SELECT id, project FROM responses WHERE (id, project) > ($1, $2) ORDER BY id, project LIMIT $3";

const ROW: &str = "SELECT r.parent_id, r.depth, CAST(r.status AS bigint), r.account, r.boundary, r.upstream_id, r.model, \
     r.input, r.referenced, r.output, r.deletes, r.checksum, r.created_at, r.body, r.body_checksum, \
     (SELECT p.depth FROM responses p WHERE p.id = r.parent_id AND p.project = r.project) \
     FROM responses r WHERE r.id = $1 AND r.project = $2";

const PLACE: &str = "SELECT response_id, position FROM items WHERE item_id = $1 AND project = $2";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 4] = [COUNT, KEYS, ROW, PLACE];

/// How many responses are read at once.
const CONCURRENT_ROWS: usize = 4;
/// How many entries of the index of items are read at once.
const CONCURRENT_PLACES: usize = 32;

type Key = (ProjectId, ResponseId);

/// What a row turned out to hold.
struct Verified {
    has_checksum: bool,
    problems: Vec<String>,
    /// The items with an id, each with its position.
    items: Vec<(ItemId, i64)>,
}

impl Verifier<'_> {
    /// Returns how many entries of the index of items lead to an item with their id.
    pub(super) async fn verify_responses(&mut self) -> Result<u64, StoreError> {
        let of_rows = self.count(COUNT).await?;
        let (mut last, mut matched) = ((Uuid::nil(), String::new()), 0);
        loop {
            let arguments = vec![id(last.0), text(last.1.clone()), number(PAGE)];
            let query = Query { text: KEYS, arguments, columns: &[Kind::Id, Kind::Text] };
            let keys: Vec<Key> = match self.select(query).await {
                Ok(rows) => rows.into_iter().map(key).collect::<Result<_, _>>()?,
                Err(error) => {
                    self.unreadable(None, "the index of responses", &error).await?;
                    return Ok(matched);
                }
            };
            let Some((project, newest)) = keys.last() else { return Ok(matched) };
            last = (newest.uuid(), project.to_string());
            for keys in keys.chunks(CONCURRENT_ROWS) {
                matched += self.verify_some(keys).await?;
                self.report.responses += keys.len() as u64;
                let rows = self.report.responses;
                (self.progress)(VerifyProgress { step: VerifyStep::Responses, rows, of_rows });
            }
        }
    }

    /// 0 if not even that can be read.
    pub(super) async fn count(&mut self, statement: &'static str) -> Result<u64, StoreError> {
        let query = Query { text: statement, arguments: Vec::new(), columns: &[Kind::Number] };
        match self.select(query).await {
            Ok(rows) => rows.into_iter().next().map_or(Ok(0), |mut row| row.integer()),
            Err(_) => self.side.renew().await.map(|()| 0),
        }
    }

    async fn verify_some(&mut self, keys: &[Key]) -> Result<u64, StoreError> {
        let read = join_all(keys.iter().map(|key| self.row(key))).await;
        let read: Result<Vec<_>, StoreError> = read.into_iter().collect();
        let mut matched = 0;
        if let Ok(rows) = read {
            for (key, row) in keys.iter().zip(rows) {
                matched += self.judge(key, row).await?;
            }
            return Ok(matched);
        }
        // One by one, as the failure of one may have failed the others.
        self.side.renew().await?;
        for key in keys {
            match self.row(key).await {
                Ok(row) => matched += self.judge(key, row).await?,
                Err(error) => self.unreadable(Some(key.clone()), "its row", &error).await?,
            }
        }
        Ok(matched)
    }

    async fn row(&self, (project, response): &Key) -> Result<Option<Columns>, StoreError> {
        use Kind::{Bytes, Id, Number, Text};
        const COLUMNS: [Kind; 16] = [
            Id, Number, Number, Text, Text, Text, Text, Bytes, Bytes, Bytes, Bytes, Number, Number, Bytes,
            Number, Number,
        ];
        let arguments = vec![id(response.uuid()), text(project.as_str())];
        let rows = self.select(Query { text: ROW, arguments, columns: &COLUMNS }).await?;
        Ok(rows.into_iter().next())
    }

    /// Returns how many of its items the index leads to.
    async fn judge(&mut self, key: &Key, row: Option<Columns>) -> Result<u64, StoreError> {
        let Some(row) = row else {
            self.add(Some(key.clone()), "the index of responses leads to another row".into());
            return Ok(0);
        };
        let verified = match verify_row(key, row) {
            Ok(verified) => verified,
            Err(error) => {
                self.add(Some(key.clone()), error.to_string());
                return Ok(0);
            }
        };
        self.report.without_checksum += u64::from(!verified.has_checksum);
        for problem in verified.problems {
            self.add(Some(key.clone()), problem);
        }
        let mut matched = 0;
        for items in verified.items.chunks(CONCURRENT_PLACES) {
            let locations = join_all(items.iter().map(|(item, _)| self.location(&key.0, item))).await;
            for ((_, position), location) in items.iter().zip(locations) {
                match location {
                    Ok(location) => matched += u64::from(location == Some((key.1.uuid(), *position))),
                    Err(_) => self.side.renew().await?,
                }
            }
        }
        Ok(matched)
    }

    async fn location(&self, project: &ProjectId, item: &ItemId) -> Result<Option<(Uuid, i64)>, StoreError> {
        let arguments = vec![text(item.as_str()), text(project.as_str())];
        let rows = self.select(Query { text: PLACE, arguments, columns: &[Kind::Id, Kind::Number] }).await?;
        rows.into_iter().next().map(|mut row| Ok((row.id()?, row.number()?))).transpose()
    }
}

fn key(mut row: Columns) -> Result<Key, StoreError> {
    let id = ResponseId::from_uuid(row.id()?);
    Ok((ProjectId::new(&row.text()?), id))
}

fn verify_row((project, id): &Key, mut row: Columns) -> Result<Verified, StoreError> {
    let turn = StoredTurn {
        id: *id,
        parent: row.optional_id().map(ResponseId::from_uuid),
        depth: row.integer()?,
        status: status_of(row.integer()?)?,
        account: row.text()?,
        boundary: row.text()?,
        upstream_id: row.optional_text(),
        model: row.text()?,
        expires_at: None,
        input: row.optional_bytes().unwrap_or_default().into(),
        referenced: decode_positions(row.optional_bytes().as_deref())?,
        output: row.optional_bytes().unwrap_or_default().into(),
        deletes: row.optional_bytes().as_deref().map(decode_locations).transpose()?,
    };
    let stored = row.optional_number();
    let created_at = Timestamp::from_unix_ms(row.number()?);
    let body = row.optional_bytes().unwrap_or_default();
    let stored_of_body = row.optional_number();
    let parent_depth: Option<u32> = row.optional_number().and_then(|depth| depth.try_into().ok());
    let mut problems = Vec::new();
    let mut note = |result: Result<(), String>| problems.extend(result.err());
    let verified = checksum::verify(checksum::of_turn(project, &turn), stored);
    note(verified.map_err(|_| "the checksum of its items is wrong".into()));
    let verified = checksum::verify(checksum::of_body(project, *id, created_at, &body), stored_of_body);
    note(verified.map_err(|_| "the checksum of its body is wrong".into()));
    note(body::decode(&body).map(|_| ()).map_err(|_| "its body can't be decompressed".into()));
    let built = Segment::build(&turn.input, &turn.referenced, &turn.output);
    note(built.map(|_| ()).map_err(|malformed| format!("its items can't be read: {malformed}")));
    note(verify_link(&turn, parent_depth));
    Ok(Verified {
        has_checksum: stored.is_some() && stored_of_body.is_some(),
        problems,
        items: indexed_items(&turn),
    })
}

fn verify_link(turn: &StoredTurn, parent_depth: Option<u32>) -> Result<(), String> {
    match (turn.parent, parent_depth) {
        (None, _) if turn.depth == 1 => Ok(()),
        (None, _) => Err("its chain is broken: it has no parent".into()),
        (Some(_), Some(depth)) if depth.checked_add(1) == Some(turn.depth) => Ok(()),
        (Some(parent), Some(_)) => Err(format!("its chain is broken: its parent {parent} has another depth")),
        (Some(parent), None) => Err(format!("its chain is broken: its parent {parent} is missing")),
    }
}

/// Where the index leads to; the last of several items with one id.
fn indexed_items(turn: &StoredTurn) -> Vec<(ItemId, i64)> {
    let arrays = [&turn.input, &turn.output];
    let items = arrays.iter().flat_map(|array| {
        json::elements(array).map_while(Result::ok).map(move |range| item::id(&array[range]))
    });
    (0..).zip(items).filter_map(|(position, id)| Some((id?, position))).collect()
}
