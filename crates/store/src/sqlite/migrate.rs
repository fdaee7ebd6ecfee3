//! Bringing a database's schema up to date.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{error, open};
use crate::StoreError;
use crate::migration::{MIGRATIONS_TABLE, Migration, NOTE_APPLIED, VERSIONS, to_apply};

pub(super) static MIGRATIONS: [Migration; 19] = [
    Migration::new(1, "responses", include_str!("../../migrations/sqlite/0001_responses.sql")),
    Migration::new(2, "accounts", include_str!("../../migrations/sqlite/0002_accounts.sql")),
    Migration::new(3, "admin", include_str!("../../migrations/sqlite/0003_admin.sql")),
    Migration::new(4, "keys", include_str!("../../migrations/sqlite/0004_keys.sql")),
    Migration::new(5, "usage", include_str!("../../migrations/sqlite/0005_usage.sql")),
    Migration::new(6, "limits", include_str!("../../migrations/sqlite/0006_limits.sql")),
    Migration::new(7, "replicas", include_str!("../../migrations/sqlite/0007_replicas.sql")),
    Migration::new(8, "checksums", include_str!("../../migrations/sqlite/0008_checksums.sql")),
    Migration::new(9, "background", include_str!("../../migrations/sqlite/0009_background.sql")),
    Migration::new(10, "conversations", include_str!("../../migrations/sqlite/0010_conversations.sql")),
    Migration::new(11, "dashboard", include_str!("../../migrations/sqlite/0011_dashboard.sql")),
    Migration::new(12, "sessions", include_str!("../../migrations/sqlite/0012_sessions.sql")),
    Migration::new(
        13,
        "conversation_bounds",
        include_str!("../../migrations/sqlite/0013_conversation_bounds.sql"),
    ),
    Migration::new(14, "background_sizes", include_str!("../../migrations/sqlite/0014_background_sizes.sql")),
    Migration::new(15, "sign_ins", include_str!("../../migrations/sqlite/0015_sign_ins.sql")),
    Migration::new(
        16,
        "accounts_and_clients",
        include_str!("../../migrations/sqlite/0016_accounts_and_clients.sql"),
    ),
    Migration::new(
        17,
        "background_checksums",
        include_str!("../../migrations/sqlite/0017_background_checksums.sql"),
    ),
    Migration::new(18, "daily_usage", include_str!("../../migrations/sqlite/0018_daily_usage.sql")),
    Migration::new(19, "new_items", include_str!("../../migrations/sqlite/0019_new_items.sql")),
];

/// The table of applied migrations in the first builds, which had one migration.
const EARLIER_TABLE: &str = "_sqlx_migrations";

/// Applies what is missing, and returns it. One transaction holds the write lock from its start, so that of two processes one
/// migrates. `shown` is the name of the database in errors.
pub(super) fn migrate(connection: &mut Connection, shown: &str) -> Result<&'static [Migration], StoreError> {
    let path = path_of(connection);
    let unusable = |error| unusable(&error, &path, shown);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unusable)?;
    let applied = applied(&transaction).map_err(unusable)?;
    let missing = to_apply(&MIGRATIONS, &applied, shown)?;
    for migration in missing {
        apply(&transaction, migration).map_err(unusable)?;
    }
    transaction.commit().map_err(unusable)?;
    Ok(missing)
}

/// What [`migrate`] would apply. Changes nothing.
pub(super) fn pending(connection: &mut Connection, shown: &str) -> Result<&'static [Migration], StoreError> {
    let path = path_of(connection);
    let unusable = |error| unusable(&error, &path, shown);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unusable)?;
    let applied = applied(&transaction).map_err(unusable)?;
    transaction.rollback().map_err(unusable)?;
    to_apply(&MIGRATIONS, &applied, shown)
}

/// Empty for a database in memory.
fn path_of(connection: &Connection) -> PathBuf {
    connection.path().unwrap_or_default().into()
}

fn unusable(error: &rusqlite::Error, path: &Path, shown: &str) -> StoreError {
    // No matter of the schema.
    let concerns_file = error::is_not_a_database(error)
        || error::is_corrupt(error)
        || error::is_not_openable(error)
        || error::is_read_only(error);
    if concerns_file {
        return open::explain(error, path, shown);
    }
    StoreError::Unusable(format!("the schema of {shown} can't be migrated: {error}"))
}

/// The versions that are applied, with their checksums; creates the table of them if there is none.
fn applied(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<(u32, String)>> {
    transaction.execute_batch(MIGRATIONS_TABLE)?;
    if transaction.table_exists(None, EARLIER_TABLE)? {
        note(transaction, &MIGRATIONS[0])?;
        transaction.execute_batch(&format!("DROP TABLE {EARLIER_TABLE}"))?;
    }
    versions(transaction)
}

pub(super) fn versions(connection: &Connection) -> rusqlite::Result<Vec<(u32, String)>> {
    let mut statement = connection.prepare(VERSIONS)?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn apply(transaction: &Transaction<'_>, migration: &Migration) -> rusqlite::Result<()> {
    transaction.execute_batch(migration.text)?;
    note(transaction, migration)
}

fn note(transaction: &Transaction<'_>, migration: &Migration) -> rusqlite::Result<()> {
    let values = params![migration.version, migration.name, migration.checksum()];
    transaction.execute(NOTE_APPLIED, values).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_of_the_folder_is_embedded() {
        crate::migration::assert_is_folder(&MIGRATIONS, "sqlite");
    }
}
