//! Purging conversations: releases their turns, which then expire as others do, and removes the index of their items.

use antiphon_protocol::id::ConversationId;

use super::statements;
use crate::sql::{Database, Kind, Query, Statement, id, number, text};
use crate::{StoreError, Timestamp};

/// `true` if there may be more to purge.
pub(super) async fn purge<D: Database>(
    database: &D,
    deleted_by: Timestamp,
    max_rows: u32,
) -> Result<bool, StoreError> {
    let query = Query {
        text: statements::OLDEST_DELETED,
        arguments: vec![number(deleted_by.unix_ms())],
        columns: &[Kind::Id, Kind::Text, Kind::Number, Kind::Number],
    };
    let Some(mut row) = database.query(query).await?.into_iter().next() else { return Ok(false) };
    let (conversation, project) = (row.id()?, row.text()?);
    let (deleted_at, retention_ms) = (row.number()?, row.optional_number());
    let max_rows = number(i64::from(max_rows));
    let name = ConversationId::from_uuid(conversation).to_string();
    let release =
        vec![number(retention_ms), number(deleted_at), text(name), text(project.clone()), max_rows.clone()];
    let items = vec![id(conversation), text(project.clone()), max_rows];
    let statements = vec![
        Statement::new(statements::RELEASE_TURNS, release),
        Statement::new(statements::PURGE_ITEMS, items),
    ];
    if !database.group().execute_all(statements).await? {
        let own = vec![id(conversation), text(project)];
        database.group().execute(Statement::new(statements::PURGE, own)).await?;
    }
    Ok(true)
}
