//! The statements on conversations that both engines understand.

macro_rules! columns {
    () => {
        "id, project, created_at, metadata, head_id, depth, version, next_position, locked_until, item_count, size_bytes, \
         used_at"
    };
}

pub(super) const INSERT: &str = "INSERT INTO conversations (id, project, created_at, metadata, head_id, depth, version, \
     next_position, item_count, size_bytes, used_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

pub(super) const LOAD: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM conversations WHERE id = $1 AND project = $2 AND deleted_at IS NULL"
);

pub(super) const LOAD_OF_TURN: &str =
    concat!("SELECT ", columns!(), " FROM conversations WHERE id = $1 AND project = $2");

pub(super) const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM conversations WHERE project = $1 AND id < $2 AND deleted_at IS NULL ORDER BY id DESC LIMIT $3"
);

pub(super) const SET_METADATA: &str = "UPDATE conversations SET size_bytes = size_bytes - length(metadata) + $1, metadata = $2, used_at = $3 \
     WHERE id = $4 AND project = $5 AND deleted_at IS NULL";

pub(super) const DELETE: &str = "UPDATE conversations SET deleted_at = $1, retention_ms = $2, locked_by = NULL, \
     locked_until = NULL WHERE id = $3 AND project = $4 AND deleted_at IS NULL";

pub(super) const LOCK: &str = "UPDATE conversations SET locked_by = $1, locked_until = $2 \
     WHERE id = $3 AND project = $4 AND version = $5 AND deleted_at IS NULL \
     AND (locked_by IS NULL OR locked_until <= $6)";

pub(super) const RENEW: &str = "UPDATE conversations SET locked_until = $1 WHERE id = $2 AND project = $3 AND locked_by = $4 \
     AND locked_until < $1";

pub(super) const UNLOCK: &str = "UPDATE conversations SET locked_by = NULL, locked_until = NULL \
     WHERE id = $1 AND project = $2 AND locked_by = $3";

/// Also ends the lock of the turn that it is for.
pub(super) const ADVANCE: &str = "UPDATE conversations SET head_id = $1, depth = $2, version = version + 1, \
     next_position = $3, item_count = item_count + $4, size_bytes = size_bytes + $5, used_at = $6, \
     locked_by = NULL, locked_until = NULL WHERE id = $7 AND project = $8 AND version = $9 AND deleted_at IS NULL \
     AND (locked_by IS NULL OR locked_by = $10 OR locked_until <= $6)";

pub(super) const IS_LIVE: &str =
    "SELECT version FROM conversations WHERE id = $1 AND project = $2 AND deleted_at IS NULL";

pub(super) const ITEMS_ASCENDING: &str = "SELECT item_id, position, response_id, item_position FROM conversation_items \
     WHERE conversation_id = $1 AND project = $2 AND position > $3 ORDER BY position LIMIT $4";

pub(super) const ITEMS_DESCENDING: &str = "SELECT item_id, position, response_id, item_position FROM conversation_items \
     WHERE conversation_id = $1 AND project = $2 AND position < $3 ORDER BY position DESC LIMIT $4";

pub(super) const FIND_ITEMS: &str = "SELECT item_id, position, response_id, item_position FROM conversation_items \
     WHERE conversation_id = $1 AND project = $2 AND item_id IN ($3, $4, $5, $6, $7, $8, $9, $10)";

pub(super) const FIND_ITEMS_ANYWHERE: &str = "SELECT i.item_id, i.position, i.response_id, i.item_position \
     FROM conversation_items i WHERE i.project = $1 AND i.item_id IN ($2, $3, $4, $5, $6, $7, $8, $9) \
     AND EXISTS (SELECT 1 FROM conversations c WHERE c.id = i.conversation_id AND c.project = i.project \
     AND c.deleted_at IS NULL)";

pub(super) const REMOVE_ITEM: &str =
    "DELETE FROM conversation_items WHERE conversation_id = $1 AND project = $2 AND position = $3";

/// The size of a project's conversations. PostgreSQL's sum of bigints is wider than a bigint.
pub(super) const SIZE_OF_PROJECT: &str = "SELECT CAST(coalesce(sum(size_bytes), 0) AS bigint) FROM conversations \
     WHERE project = $1 AND deleted_at IS NULL";

/// Deletes those that nobody has used since $3 and no turn runs in. The outer condition is checked again on a row that another
/// transaction has just changed. A row that an earlier build has added has no time of use.
pub(super) const EXPIRE: &str = "UPDATE conversations SET deleted_at = $1, retention_ms = $2, locked_by = NULL, \
     locked_until = NULL WHERE used_at <= $3 AND deleted_at IS NULL AND (locked_by IS NULL OR locked_until <= $1) \
     AND (id, project) IN (SELECT id, project FROM conversations WHERE used_at <= $3 AND created_at <= $3 \
     AND deleted_at IS NULL AND (locked_by IS NULL OR locked_until <= $1) ORDER BY used_at LIMIT $4)";

pub(super) const OLDEST_DELETED: &str = "SELECT id, project, deleted_at, retention_ms FROM conversations \
     WHERE deleted_at <= $1 ORDER BY deleted_at LIMIT 1";

/// From now on, responses expire as others do, and turns that are none are of no use but to those.
pub(super) const RELEASE_TURNS: &str = "UPDATE responses SET conversation_id = NULL, \
     expires_at = CASE WHEN expires_at IS NOT NULL THEN expires_at \
       WHEN deletes IS NULL THEN created_at + $1 ELSE $2 END \
     WHERE (id, project) IN (SELECT id, project FROM responses WHERE conversation_id = $3 AND project = $4 LIMIT $5)";

pub(super) const PURGE_ITEMS: &str = "DELETE FROM conversation_items WHERE (conversation_id, project, position) IN \
     (SELECT conversation_id, project, position FROM conversation_items \
     WHERE conversation_id = $1 AND project = $2 LIMIT $3)";

pub(super) const PURGE: &str =
    "DELETE FROM conversations WHERE id = $1 AND project = $2 AND deleted_at IS NOT NULL";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const ALL: [&str; 1] = [INSERT];

/// For the tests of both engines: those that must use an index.
#[cfg(test)]
pub(crate) const INDEXED: [&str; 21] = [
    LOAD,
    LOAD_OF_TURN,
    LIST,
    SET_METADATA,
    DELETE,
    LOCK,
    RENEW,
    UNLOCK,
    ADVANCE,
    IS_LIVE,
    ITEMS_ASCENDING,
    ITEMS_DESCENDING,
    FIND_ITEMS,
    FIND_ITEMS_ANYWHERE,
    REMOVE_ITEM,
    SIZE_OF_PROJECT,
    EXPIRE,
    OLDEST_DELETED,
    RELEASE_TURNS,
    PURGE_ITEMS,
    PURGE,
];
