//! Where each value of a configuration comes from.

use std::collections::BTreeMap;

/// The sources of values that are no defaults, by their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(pub(super) BTreeMap<String, String>);

/// Where a value comes from, in the words of the layer: `in antiphon.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a>(Option<&'a str>);

const FILE: &str = "in ";
const VARIABLE: &str = "environment variable ";
const FLAG: &str = "flag ";

// === impl Sources ===

impl Sources {
    /// The source of a value, or of the table or list that it is in.
    pub fn of(&self, key: &str) -> Origin<'_> {
        let mut key = key;
        loop {
            if let Some(source) = self.0.get(key) {
                return Origin(Some(source.as_str()).filter(|source| *source != "default"));
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return Origin(None),
            }
        }
    }
}

// === impl Origin ===

impl Origin<'_> {
    /// `default`, `file`, `environment` or `flag`.
    pub fn kind(self) -> &'static str {
        match self.0 {
            None => "default",
            Some(source) if source.starts_with(FILE) => "file",
            Some(source) if source.starts_with(FLAG) => "flag",
            Some(_) => "environment",
        }
    }

    /// The name of the file, the variable or the flag.
    pub fn name(self) -> Option<String> {
        let source = self.0?;
        let name = [FILE, VARIABLE, FLAG].into_iter().find_map(|prefix| source.strip_prefix(prefix));
        Some(name.unwrap_or(source).to_owned())
    }
}
