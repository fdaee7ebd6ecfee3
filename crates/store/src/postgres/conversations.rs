//! Appending to conversations, for a whole batch at once.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::statement::{self, Argument, argument};
use crate::conversations::{Pending, is_live, remove_item};
use crate::group::{Operation, Outcome};
use crate::sql::Statement;
use crate::{Appended, BackgroundResult, Record};

/// A derived id is nobody else's.
pub(super) const INSERT_ITEMS: &str =
    "INSERT INTO conversation_items (conversation_id, project, position, item_id, response_id, item_position)
     SELECT n.conversation_id, n.project, n.position, CASE WHEN n.item_id <> n.otherwise AND EXISTS (SELECT 1 FROM conversation_items e
       WHERE e.item_id = n.item_id AND e.conversation_id = n.conversation_id AND e.project = n.project)
       THEN n.otherwise ELSE n.item_id END, n.response_id, n.item_position
     FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::uuid[], $7::bigint[])
       n (conversation_id, project, position, item_id, otherwise, response_id, item_position)";

/// Locks rows in the order of their ids.
pub(super) const LOCK_ROWS: &str = "SELECT c.id FROM conversations c \
     WHERE (c.id, c.project) IN (SELECT * FROM unnest($1::uuid[], $2::text[])) ORDER BY c.id, c.project FOR NO KEY UPDATE";

/// The appends of a batch, by the positions of their operations in it.
pub(super) struct Appends<'a>(Vec<(usize, Pending<'a>)>);

// === impl Appends ===

impl<'a> Appends<'a> {
    /// In the order of the conversations, and of the batch.
    pub(super) fn of(batch: &'a [Operation]) -> Self {
        let pending = |operation: &'a Operation| match operation {
            Operation::Record(record) => Pending::of_record(record),
            Operation::Post(post) => Some(Pending::of_post(post)),
            _ => None,
        };
        let all =
            batch.iter().enumerate().filter_map(|(index, operation)| Some((index, pending(operation)?)));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(index, pending)| (pending.append.conversation, *index));
        Self(all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Moves the heads of the conversations; of what could not be appended the operations must write nothing else.
    pub(super) async fn advance(
        &self,
        client: &Client,
        batch: &[Operation],
    ) -> Result<BTreeMap<usize, Appended>, Error> {
        let mut appended = BTreeMap::new();
        for (index, pending) in &self.0 {
            if let Operation::Post(post) = &batch[*index]
                && let Some(conversation) = &post.begins
            {
                statement::execute(client, &conversation.insert()).await?;
            }
            appended.insert(*index, advance(client, pending).await?);
        }
        Ok(appended)
    }

    /// Changes the index of items, and sets the outcomes.
    pub(super) async fn finish(
        &self,
        client: &Client,
        batch: &[Operation],
        appended: &BTreeMap<usize, Appended>,
        outcomes: &mut [Outcome],
    ) -> Result<(), Error> {
        let done = self.0.iter().filter(|(index, _)| appended.get(index) == Some(&Appended::Done));
        insert_items(client, done.clone().map(|(_, pending)| pending)).await?;
        for (index, pending) in done {
            if let Operation::Post(post) = &batch[*index]
                && let Some(position) = post.deletes
            {
                let removal = remove_item(pending.project, pending.append.conversation, position);
                statement::execute(client, &removal).await?;
            }
        }
        for (index, outcome) in appended {
            outcomes[*index] = Outcome::Appended(*outcome);
        }
        Ok(())
    }
}

/// Locks the rows of all conversations that a batch changes, in one order: writers that took them as they come would deadlock.
pub(super) async fn lock_rows(client: &Client, batch: &[Operation]) -> Result<(), Error> {
    let rows: BTreeSet<(Uuid, &str)> = batch.iter().flat_map(changed_by).collect();
    if rows.len() < 2 {
        return Ok(());
    }
    let (ids, projects): (Vec<Uuid>, Vec<&str>) = rows.into_iter().unzip();
    let columns: [(&(dyn ToSql + Sync), Type); 2] = [(&ids, Type::UUID_ARRAY), (&projects, Type::TEXT_ARRAY)];
    client.execute_typed(LOCK_ROWS, &columns).await.map(|_| ())
}

fn changed_by(operation: &Operation) -> Vec<(Uuid, &str)> {
    match operation {
        Operation::Record(record) => row_of_record(record).into_iter().collect(),
        Operation::Post(post) => vec![(post.append.conversation.uuid(), post.project.as_str())],
        Operation::EndBackground(end) => {
            let unlocked = end.unlocks.as_ref().map(|lock| (lock.conversation.uuid(), lock.project.as_str()));
            let appended = match &end.result {
                BackgroundResult::Stored(record) => row_of_record(record),
                BackgroundResult::Kept { .. } => None,
            };
            unlocked.into_iter().chain(appended).collect()
        }
        Operation::Execute(statements) => statements.iter().flat_map(rows_of_statement).collect(),
        Operation::ExecuteSoon(statement) => rows_of_statement(statement).collect(),
        _ => Vec::new(),
    }
}

fn row_of_record(record: &Record) -> Option<(Uuid, &str)> {
    record.append.as_ref().map(|append| (append.conversation.uuid(), record.project.as_str()))
}

fn rows_of_statement(statement: &Statement) -> impl Iterator<Item = (Uuid, &str)> {
    let changed = statement.with_followers().filter_map(|statement| statement.conversation.as_ref());
    changed.map(|(id, project)| (*id, project.as_str()))
}

/// Moves the head of a conversation.
pub(super) async fn advance(client: &Client, pending: &Pending<'_>) -> Result<Appended, Error> {
    if statement::execute(client, &pending.advance()).await? {
        return Ok(Appended::Done);
    }
    let query = is_live(pending.project, pending.append.conversation);
    let arguments: Vec<Argument<'_>> = query.arguments.iter().map(argument).collect();
    let rows = client.query_typed(query.text, &arguments).await?;
    Ok(if rows.is_empty() { Appended::Deleted } else { Appended::Conflict })
}

pub(super) async fn insert_items<'a: 'b, 'b>(
    client: &Client,
    appends: impl Iterator<Item = &'b Pending<'a>>,
) -> Result<(), Error> {
    let rows: Vec<_> = appends.flat_map(|pending| pending.items().map(move |item| (pending, item))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let conversations: Vec<Uuid> = rows.iter().map(|(to, _)| to.append.conversation.uuid()).collect();
    let projects: Vec<&str> = rows.iter().map(|(to, _)| to.project.as_str()).collect();
    let positions: Vec<i64> =
        rows.iter().map(|(_, (position, _))| i64::try_from(*position).unwrap_or(i64::MAX)).collect();
    let ids: Vec<&str> = rows.iter().map(|(_, (_, item))| item.id.as_str()).collect();
    let others: Vec<&str> = rows.iter().map(|(_, (_, item))| item.otherwise.as_str()).collect();
    let turns: Vec<Uuid> = rows.iter().map(|(_, (_, item))| item.location.turn.uuid()).collect();
    let item_positions: Vec<i64> =
        rows.iter().map(|(_, (_, item))| i64::from(item.location.position)).collect();
    let columns: [(&(dyn ToSql + Sync), Type); 7] = [
        (&conversations, Type::UUID_ARRAY),
        (&projects, Type::TEXT_ARRAY),
        (&positions, Type::INT8_ARRAY),
        (&ids, Type::TEXT_ARRAY),
        (&others, Type::TEXT_ARRAY),
        (&turns, Type::UUID_ARRAY),
        (&item_positions, Type::INT8_ARRAY),
    ];
    client.execute_typed(INSERT_ITEMS, &columns).await.map(|_| ())
}
