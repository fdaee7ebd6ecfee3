//! Problems of a configuration: the key, its value, where it was written and the rule it breaks.
//!
//! A section rejects a value by its key ([`Problems::reject`]). The layers, which know its source, turn that into the
//! [`Problem`] that people read. Neither contains secrets.

use std::fmt;
use std::path::PathBuf;

use figment::error::{Actual, Kind};

use super::credential::{ApiKey, Secrets, Unread};

#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },

    /// Without the line itself, which may hold a secret.
    #[error("{} is not valid TOML at line {line}, column {column}: {reason}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, reason: String },

    /// All problems at once.
    #[error("{}", list(problems))]
    Invalid { problems: Vec<Problem> },

    #[error(
        "no account is configured: set OPENAI_API_KEY (and OPENAI_BASE_URL for an upstream other than OpenAI), or add an \
         [[accounts]] section to the configuration file"
    )]
    NoAccounts,
}

/// One rejected value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its path, such as `accounts[1].base_url`.
    pub key: String,
    /// The value as it was written, unless it is or may hold a secret.
    pub value: Option<String>,
    /// Where it was written, such as `in /etc/antiphon.toml`.
    pub source: String,
    /// The line of the file, or of the table in it that lacks the value.
    pub line: Option<usize>,
    /// The rule that it breaks.
    pub rule: String,
}

/// The values that have been rejected so far.
#[derive(Default)]
pub(super) struct Problems {
    rejections: Vec<Rejection>,
    /// Keys that were meant by unknown ones.
    misspelt: Vec<String>,
    secrets: Secrets,
}

pub(super) struct Rejection {
    pub(super) key: String,
    pub(super) rule: String,
    /// Whether to show the value; not if it may be a misplaced secret.
    pub(super) show_value: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        let line = self.line.map_or_else(String::new, |line| format!(", line {line}"));
        write!(f, " ({}{line}): {}", self.source, self.rule)
    }
}

fn list(problems: &[Problem]) -> String {
    match problems {
        [problem] => problem.to_string(),
        _ => problems
            .iter()
            .fold(format!("{} problems in the configuration:", problems.len()), |text, problem| {
                format!("{text}\n  {problem}")
            }),
    }
}

// === impl Problems ===

impl Problems {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self { secrets, ..Self::default() }
    }

    /// The key that was read. One whose secret can't be read is rejected if secrets are required.
    pub(super) fn accept(&mut self, key: String, read: Result<ApiKey, Unread>) -> Option<ApiKey> {
        match read {
            Ok(read) => Some(read),
            Err(Unread { key: Some(known), .. }) if self.secrets == Secrets::Optional => Some(known),
            Err(Unread { rule, .. }) => {
                self.reject(key, rule);
                None
            }
        }
    }

    /// Rejects the value at `key`; `rule` continues the sentence that begins with the key.
    pub(super) fn reject(&mut self, key: impl Into<String>, rule: impl Into<String>) {
        self.push(Rejection { key: key.into(), rule: rule.into(), show_value: true });
    }

    /// As [`reject`](Self::reject), for a value that may hold a secret.
    pub(super) fn reject_hidden(&mut self, key: impl Into<String>, rule: impl Into<String>) {
        self.push(Rejection { key: key.into(), rule: rule.into(), show_value: false });
    }

    /// Rejects a value that serde could not deserialize.
    pub(super) fn reject_type(&mut self, error: &figment::Error) {
        let rule = match &error.kind {
            Kind::Message(rule) => format!("must be {rule}"),
            Kind::InvalidType(actual, expected) if expected == "a sequence" => {
                let name = error.path.last().map_or("", String::as_str);
                match actual {
                    Actual::Str(_) if ["accounts", "prices"].contains(&name) => {
                        "must be a list of tables in TOML, such as [{ key = \"value\" }]".to_owned()
                    }
                    Actual::Str(_) => format!("must be a list: write {name} = [\"…\"]"),
                    _ => "must be a list".to_owned(),
                }
            }
            Kind::InvalidType(Actual::Seq, expected) => format!("must be {expected}, not a list"),
            Kind::InvalidType(Actual::Map, expected) => format!("must be {expected}, not a table"),
            Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => format!("must be {expected}"),
            Kind::UnknownField(_, known) => {
                let meant = suggestion(&error.path, known);
                self.misspelt.extend(meant.as_ref().map(|(key, _)| key.clone()));
                unknown_key(meant.map(|(_, shown)| shown), known)
            }
            _ => "has a value of the wrong type".to_owned(),
        };
        // Text where a table belongs is often the secret that the table should have named.
        let show_value = !matches!(error.kind, Kind::UnknownField(..) | Kind::InvalidType(Actual::Str(_), _));
        self.push(Rejection { key: key_path(&error.path), rule, show_value });
    }

    /// One problem of a value is enough: others may only follow from it.
    fn push(&mut self, rejection: Rejection) {
        if !self.concern(&rejection.key) {
            self.rejections.push(rejection);
        }
    }

    /// Whether something was rejected at this key, in it, or around it.
    pub(super) fn concern(&self, key: &str) -> bool {
        let is_within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let rejected = self.rejections.iter().map(|rejection| &rejection.key);
        rejected.chain(&self.misspelt).any(|known| is_within(known, key) || is_within(key, known))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rejections.is_empty()
    }

    pub(super) fn into_rejections(self) -> Vec<Rejection> {
        self.rejections
    }
}

/// `["accounts", "1", "base_url"]` as `accounts[1].base_url`.
fn key_path(path: &[String]) -> String {
    path.iter().fold(String::new(), |key, segment| match segment.parse::<usize>() {
        Ok(index) => format!("{key}[{index}]"),
        Err(_) if key.is_empty() => segment.clone(),
        Err(_) => format!("{key}.{segment}"),
    })
}

fn unknown_key(suggestion: Option<String>, known: &[&str]) -> String {
    let known_keys = known.join(", ");
    match suggestion {
        Some(suggestion) => format!("unknown key; did you mean {suggestion}? Known keys: {known_keys}"),
        None => format!("unknown key. Known keys: {known_keys}"),
    }
}

/// The key that is probably meant, and how to write it.
fn suggestion(path: &[String], known: &[&str]) -> Option<(String, String)> {
    let (name, parents) = path.split_last()?;
    // `ANTIPHON_STORE_URL`, with one underscore too few.
    let glued =
        known.iter().find_map(|section| Some((section, name.strip_prefix(section)?.strip_prefix('_')?)));
    if let (Some((section, rest)), []) = (glued, parents) {
        let variable = format!("ANTIPHON_{section}__{rest}").to_uppercase();
        let key = format!("{section}.{rest}");
        let shown = format!("{key} (as a variable {variable})");
        return Some((key, shown));
    }
    let (distance, closest) = known.iter().map(|key| (edit_distance(name, key), key)).min()?;
    let is_close = distance <= closest.len().div_ceil(3);
    let key = key_path(&[parents, &[(*closest).to_owned()]].concat());
    is_close.then(|| (key.clone(), key))
}

/// The Levenshtein distance: how many characters must be inserted, removed or changed.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
