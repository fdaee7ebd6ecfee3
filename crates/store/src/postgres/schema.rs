//! Migrating the schema of a database: once, before anything else uses it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

use super::connect::{ConnectError, Connector, Opened};
use super::error::{QueryError, describe};
use crate::Migrate;
use crate::migration::{MIGRATIONS_TABLE, Migration, NOTE_APPLIED, VERSIONS, outdated, to_apply};

static MIGRATIONS: [Migration; 18] = [
    Migration::new(1, "responses", include_str!("../../migrations/postgres/0001_responses.sql")),
    Migration::new(2, "accounts", include_str!("../../migrations/postgres/0002_accounts.sql")),
    Migration::new(3, "admin", include_str!("../../migrations/postgres/0003_admin.sql")),
    Migration::new(4, "keys", include_str!("../../migrations/postgres/0004_keys.sql")),
    Migration::new(5, "usage", include_str!("../../migrations/postgres/0005_usage.sql")),
    Migration::new(6, "limits", include_str!("../../migrations/postgres/0006_limits.sql")),
    Migration::new(7, "replicas", include_str!("../../migrations/postgres/0007_replicas.sql")),
    Migration::new(8, "checksums", include_str!("../../migrations/postgres/0008_checksums.sql")),
    Migration::new(9, "background", include_str!("../../migrations/postgres/0009_background.sql")),
    Migration::new(10, "conversations", include_str!("../../migrations/postgres/0010_conversations.sql")),
    Migration::new(11, "dashboard", include_str!("../../migrations/postgres/0011_dashboard.sql")),
    Migration::new(12, "sessions", include_str!("../../migrations/postgres/0012_sessions.sql")),
    Migration::new(
        13,
        "conversation_bounds",
        include_str!("../../migrations/postgres/0013_conversation_bounds.sql"),
    ),
    Migration::new(
        14,
        "background_sizes",
        include_str!("../../migrations/postgres/0014_background_sizes.sql"),
    ),
    Migration::new(15, "sign_ins", include_str!("../../migrations/postgres/0015_sign_ins.sql")),
    Migration::new(
        16,
        "accounts_and_clients",
        include_str!("../../migrations/postgres/0016_accounts_and_clients.sql"),
    ),
    Migration::new(
        17,
        "background_checksums",
        include_str!("../../migrations/postgres/0017_background_checksums.sql"),
    ),
    Migration::new(18, "daily_usage", include_str!("../../migrations/postgres/0018_daily_usage.sql")),
];

/// "Antiphon" in ASCII, which no other program's lock is likely to be.
const MIGRATION_LOCK: i64 = 0x416e_7469_7068_6f6e;

/// A replica that died during a migration holds its locks until the server notices.
const BEGIN: &str =
    "BEGIN; SET LOCAL lock_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = '30s'";
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock($1::bigint)";
pub(super) const HAS_VERSIONS: &str = "SELECT to_regclass('antiphon_schema') IS NOT NULL";

/// The name of the database in errors.
const SHOWN: &str = "the database";
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// For reading the version of the schema.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// What this process knows of the schema of a database.
pub(super) struct Schema {
    connector: Connector,
    mode: Migrate,
    is_current: OnceCell<()>,
}

// === impl Schema ===

impl Schema {
    /// `connector` reaches the database where migrations can run.
    pub(super) fn new(connector: Connector, mode: Migrate) -> Self {
        Self { connector, mode, is_current: OnceCell::new() }
    }

    /// Does nothing after the first success.
    pub(super) async fn bring_up_to_date(&self) -> Result<(), ConnectError> {
        let bring = async || match self.mode {
            Migrate::Auto => migrate(&self.connector).await.map(|_| ()),
            Migrate::Manual => {
                let pending = pending(&self.connector).await?;
                let outdated = |newest| ConnectError::Unusable(outdated(SHOWN, newest).to_string());
                pending.last().map_or(Ok(()), |newest| Err(outdated(newest)))
            }
        };
        self.is_current.get_or_try_init(bring).await.map(|_| ())
    }
}

/// Applies what is missing, and returns it. Runs in one transaction and under a lock, so that one of many replicas does it.
pub(super) async fn migrate(connector: &Connector) -> Result<&'static [Migration], ConnectError> {
    on_connection(connector, |client| Box::pin(migrate_with(client))).await
}

/// What [`migrate`] would apply.
pub(super) async fn pending(connector: &Connector) -> Result<&'static [Migration], ConnectError> {
    on_connection(connector, |client| Box::pin(pending_with(client))).await
}

/// Runs the work on a connection of its own.
async fn on_connection<T>(
    connector: &Connector,
    work: impl for<'a> FnOnce(&'a Client) -> BoxFuture<'a, Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let Opened { client, mut driver } = connector.connect().await?;
    let result = tokio::select! {
        result = work(&client) => result,
        ended = &mut driver => {
            let reason = ended.map_or_else(|error| describe(&error), |()| "the connection was closed".into());
            Err(ConnectError::Unavailable(reason))
        }
    };
    drop(client);
    // Tells the server goodbye. It would notice without that, too.
    let _ = timeout(GOODBYE_TIMEOUT, driver).await;
    result
}

/// Applied versions and their checksums.
type Applied = Vec<(u32, String)>;

fn missing(applied: &Applied) -> Result<&'static [Migration], ConnectError> {
    to_apply(&MIGRATIONS, applied, SHOWN).map_err(|error| ConnectError::Unusable(error.to_string()))
}

async fn pending_with(client: &Client) -> Result<&'static [Migration], ConnectError> {
    let applied = timeout(LOOK_TIMEOUT, applied(client)).await;
    let applied = applied.map_err(|_| {
        ConnectError::Unavailable(format!("the database did not answer within {LOOK_TIMEOUT:?}"))
    })?;
    missing(&applied.map_err(QueryError::from)?)
}

async fn migrate_with(client: &Client) -> Result<&'static [Migration], ConnectError> {
    let failed = |error: Error| ConnectError::from(QueryError::from(error));
    client.batch_execute(BEGIN).await.map_err(failed)?;
    client.query_typed(LOCK, &[(&MIGRATION_LOCK, Type::INT8)]).await.map_err(failed)?;
    let applied = applied(client).await.map_err(failed)?;
    let missing = missing(&applied)?;
    if applied.is_empty() {
        client.batch_execute(MIGRATIONS_TABLE).await.map_err(failed)?;
    }
    for migration in missing {
        client.batch_execute(migration.text).await.map_err(failed)?;
        note(client, migration).await.map_err(failed)?;
    }
    client.batch_execute("COMMIT").await.map_err(failed)?;
    Ok(missing)
}

async fn applied(client: &Client) -> Result<Applied, Error> {
    let has_versions = client.query_typed_one(HAS_VERSIONS, &[]).await?;
    if !has_versions.try_get::<_, bool>(0)? {
        return Ok(Vec::new());
    }
    let rows = client.query_typed(VERSIONS, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get::<_, i32>(0)?.unsigned_abs(), row.try_get(1)?))).collect()
}

async fn note(client: &Client, migration: &Migration) -> Result<(), Error> {
    let (version, checksum) = (i32::try_from(migration.version).unwrap_or(i32::MAX), migration.checksum());
    let values: [(&(dyn ToSql + Sync), Type); 3] =
        [(&version, Type::INT4), (&migration.name, Type::TEXT), (&checksum, Type::TEXT)];
    client.execute_typed(NOTE_APPLIED, &values).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_of_the_folder_is_embedded() {
        crate::migration::assert_is_folder(&MIGRATIONS, "postgres");
    }
}
