//! `api_key`: a secret and its source.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::environment::Environment;

/// No key is as long. The file may be one that never ends.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// A credential, read from its source. Printing it shows the source, never the secret.
#[derive(Debug, Clone)]
pub struct ApiKey {
    source: Source,
    /// Empty if it could not be read, and need not be.
    secret: SecretString,
}

/// Whether a configuration needs the secrets of its accounts. Commands that call no upstream do without them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Secrets {
    #[default]
    Required,
    Optional,
}

/// Why a key could not be read.
pub(super) struct Unread {
    /// The broken rule, without the secret.
    pub(super) rule: String,
    /// The key without its secret, if nothing else is wrong.
    pub(super) key: Option<ApiKey>,
}

#[derive(Debug, Clone, PartialEq)]
enum Source {
    Variable(String),
    File(PathBuf),
    Literal,
}

/// An `api_key` as it is written.
#[derive(Deserialize, Default)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = r#"one of { env = "NAME" }, { file = "path" } or { value = "secret" }"#
)]
pub(super) struct ApiKeyDraft {
    /// The environment variable that holds it.
    env: Option<String>,
    /// The file that holds it, relative to the working directory; line ends at its end are ignored.
    file: Option<PathBuf>,
    /// The secret itself.
    value: Option<SecretString>,
}

impl ApiKey {
    /// The secret: visible ASCII without spaces, which is valid in a header.
    pub fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// Whether the secret could be read.
    pub fn is_known(&self) -> bool {
        !self.secret.expose_secret().is_empty()
    }
}

impl PartialEq for ApiKey {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.secret.expose_secret() == other.secret.expose_secret()
    }
}

impl ApiKeyDraft {
    /// Reads the secret.
    pub(super) fn resolve(self, cwd: &Path, environment: &Environment) -> Result<ApiKey, Unread> {
        let (source, secret) = match self {
            Self { env: Some(name), file: None, value: None } => {
                check_name(&name)?;
                let secret = from_variable(&name, environment);
                (Source::Variable(name), secret)
            }
            Self { env: None, file: Some(path), value: None } => {
                let secret = from_file(&cwd.join(&path));
                (Source::File(path), secret)
            }
            Self { env: None, file: None, value: Some(secret) } => (Source::Literal, Ok(secret)),
            _ => return Err("needs exactly one of env, file and value".to_owned().into()),
        };
        let secret = match secret {
            Ok(secret) => secret,
            Err(rule) => {
                return Err(Unread { rule, key: Some(ApiKey { source, secret: SecretString::default() }) });
            }
        };
        let text = secret.expose_secret();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "{source}: not a valid key; a key consists of visible ASCII characters without spaces"
            )
            .into());
        }
        Ok(ApiKey { source, secret })
    }
}

impl From<String> for Unread {
    fn from(rule: String) -> Self {
        Self { rule, key: None }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !is_name {
        // Not shown, as it may be a key that was written instead of a name.
        return Err(
            "env must be the name of an environment variable (letters, digits and _), not the key itself"
                .to_owned(),
        );
    }
    Ok(())
}

fn from_variable(name: &str, environment: &Environment) -> Result<SecretString, String> {
    let secret =
        environment.get(name).ok_or_else(|| format!("environment variable {name} is not set or empty"))?;
    Ok(secret.into())
}

fn from_file(path: &Path) -> Result<SecretString, String> {
    let unreadable = |error: std::io::Error| format!("cannot read file {}: {error}", path.display());
    let file = File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("file {} is larger than {} KiB", path.display(), MAX_FILE_BYTES >> 10));
    }
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("file {} is empty", path.display())),
        secret => Ok(secret.into()),
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Literal => f.write_str("value"),
        }
    }
}

impl Serialize for ApiKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match &self.source {
            Source::Variable(name) => map.serialize_entry("env", name)?,
            Source::File(path) => map.serialize_entry("file", &path.to_string_lossy())?,
            Source::Literal => map.serialize_entry("value", "<redacted>")?,
        }
        map.end()
    }
}
