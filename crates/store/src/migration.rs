//! Migrations: numbered, forward only, and never edited once released.

use antiphon_runtime::hex;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::StoreError;

/// The table of applied migrations, in both engines.
pub(crate) const MIGRATIONS_TABLE: &str = "CREATE TABLE IF NOT EXISTS antiphon_schema \
     (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, \
     applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)";

/// The applied migrations, each with its checksum.
pub(crate) const VERSIONS: &str = "SELECT version, checksum FROM antiphon_schema ORDER BY version";

pub(crate) const NOTE_APPLIED: &str =
    "INSERT INTO antiphon_schema (version, name, checksum) VALUES ($1, $2, $3)";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 2] = [VERSIONS, NOTE_APPLIED];

/// One step of a schema.
#[derive(Debug)]
pub(crate) struct Migration {
    pub(crate) version: u32,
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

/// The migrations that a database lacks. `applied` are its versions in order, with checksums; `shown` is its name in errors.
pub(crate) fn to_apply<'a>(
    known: &'a [Migration],
    applied: &[(u32, String)],
    shown: &str,
) -> Result<&'a [Migration], StoreError> {
    let newest = known.last().map_or(0, |migration| migration.version);
    for (version, checksum) in applied.iter().rev() {
        let Some(migration) = known.iter().find(|migration| migration.version == *version) else {
            return Err(StoreError::Unusable(format!(
                "{shown} has schema version {version}, but this build knows versions up to {newest} only: \
                 run a newer build, or use another database"
            )));
        };
        if migration.checksum() != *checksum {
            return Err(StoreError::Unusable(format!(
                "schema version {version} of {shown} differs from this build's: an unreleased build made it"
            )));
        }
    }
    let current = applied.iter().map(|(version, _)| *version).max().unwrap_or(0);
    let is_applied = |version| applied.iter().any(|(applied, _)| *applied == version);
    if let Some(skipped) = known.iter().find(|known| known.version < current && !is_applied(known.version)) {
        return Err(StoreError::Unusable(format!(
            "schema version {} of {shown} is missing although a later one is applied: an unreleased build made it",
            skipped.version
        )));
    }
    let first = known.iter().position(|migration| migration.version > current).unwrap_or(known.len());
    Ok(&known[first..])
}

/// The error for an operator who migrates by hand and has not done so.
pub(crate) fn outdated(shown: &str, newest: &Migration) -> StoreError {
    StoreError::Unusable(format!(
        "the schema of {shown} is out of date; this build needs version {}: run `antiphon migrate`, or set \
         store.migrate = \"auto\" to migrate at every start",
        newest.version
    ))
}

// === impl Migration ===

impl Migration {
    pub(crate) const fn new(version: u32, name: &'static str, text: &'static str) -> Self {
        Self { version, name, text }
    }

    /// Reveals a migration that was edited after it was applied.
    pub(crate) fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.text))
    }
}

impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}_{}", self.version, self.name)
    }
}

#[cfg(test)]
pub(crate) fn assert_is_folder(migrations: &[Migration], engine: &str) {
    let folder = format!("{}/migrations/{engine}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let embedded = migrations.iter().map(|migration| format!("{migration}.sql"));
    assert_eq!(embedded.collect::<Vec<_>>(), files);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_may_skip_version_numbers_but_a_database_may_not() {
        let known = [1, 2, 5].map(|version| Migration::new(version, "m", "SELECT 1"));
        let missing = |applied: &[u32]| {
            let applied: Vec<_> = applied.iter().map(|version| (*version, known[0].checksum())).collect();
            let missing = to_apply(&known, &applied, "it");
            missing
                .map(|missing| missing.iter().map(|one| one.version).collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        };
        assert_eq!(missing(&[]).unwrap(), [1, 2, 5]);
        assert_eq!(missing(&[1, 2]).unwrap(), [5]);
        assert_eq!(missing(&[1, 2, 5]).unwrap(), [0; 0]);
        assert!(missing(&[1, 5]).unwrap_err().contains("version 2 of it is missing"));
        assert!(missing(&[1, 2, 6]).unwrap_err().contains("versions up to 5"));
    }
}
