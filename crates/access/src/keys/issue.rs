//! Creating, rotating, revoking and deleting keys, for the command line and the admin API.

use std::time::Duration;

use antiphon_protocol::id::{KeyId, ProjectId};
use antiphon_store::{
    AuditEntry, Clock, Expiry, KeyTerms, Rotation, Store, StoreError, StoredKey, Timestamp,
};
use rand::RngExt;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{KeyState, Secret};
use crate::audit::{Actor, entry};
use crate::limits::{LimitSettings, Rules};
use crate::object;
use crate::pattern::PatternText;
use antiphon_runtime::parse_rfc3339;

const MAX_NAME_BYTES: usize = 64;
/// Names that no URL can hold below `/keys/`: dots are part of the path there, and the dashboard has its form at `new`. Keys
/// from before they were refused still have them.
const UNREACHABLE_NAMES: [&str; 3] = [".", "..", "new"];
/// Bounded, as every process keeps all keys in memory.
const MAX_MODELS: usize = 100;
const MAX_LIMITS_BYTES: usize = 16 * 1024;
/// How long the previous secret of a key may keep working.
const MAX_OVERLAP: Duration = Duration::from_hours(24 * 30);

/// Parameters of a new key.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyRequest)]
pub struct NewKey {
    /// Unique name, shown in lists and logs; not `.`, `..` or `new`.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$", example = "laptop")]
    pub name: String,
    /// Project of the key; keys of a project share its responses. Default: a new project.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub project: Option<String>,
    /// Allowed models. Default: all models.
    #[schema(max_items = 100)]
    pub models: Option<Vec<PatternText>>,
    /// Expiry time in RFC 3339 with a time zone, in the future. Default: never.
    #[schema(format = DateTime, example = "2030-01-31T18:00:00+01:00")]
    pub expires_at: Option<String>,
    /// Limits of the key: at most 50, in 16 KiB.
    #[serde(default, deserialize_with = "object::optional")]
    pub limits: Option<LimitSettings>,
}

/// Changes to a key. What is left out stays as it is.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyChanges)]
pub struct KeyChanges {
    /// Allowed models; an empty list allows all models.
    #[schema(max_items = 100)]
    pub models: Option<Vec<PatternText>>,
    /// Expiry time in RFC 3339 with a time zone, in the future; `never` for none.
    #[schema(example = "2030-01-31T18:00:00+01:00")]
    pub expires_at: Option<String>,
    /// All limits of the key: these replace those that it has. A limit that stays keeps what was used of it.
    #[serde(default, deserialize_with = "object::optional")]
    pub limits: Option<LimitSettings>,
}

/// Why a key was not created or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("invalid '{param}': {why}")]
    Invalid { param: &'static str, why: String },
    #[error("a key named {0:?} already exists (it may be revoked)")]
    NameTaken(String),
    #[error("key {0:?} not found")]
    NotFound(String),
    #[error("key {name:?} is {}", state.as_str())]
    NotActive { name: String, state: KeyState },
    #[error("key {0:?} was rotated by somebody else meanwhile")]
    Rotated(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Creates and changes keys on behalf of an operator.
pub struct Issuer<'a> {
    pub store: &'a dyn Store,
    pub clock: &'a dyn Clock,
    pub actor: Actor<'a>,
}

// === impl Issuer ===

impl Issuer<'_> {
    pub async fn find(&self, name: &str) -> Result<StoredKey, KeyError> {
        // No key has an invalid name, and PostgreSQL rejects some of them as parameters.
        let is_name = check_name("name", name).is_ok();
        let key = if is_name { self.store.load_key(name).await? } else { None };
        key.ok_or_else(|| KeyError::NotFound(name.to_owned()))
    }

    pub async fn create(&self, new: NewKey) -> Result<(StoredKey, Secret), KeyError> {
        let now = self.clock.now();
        let secret = Secret::mint();
        let key = new.into_stored(now, &secret)?;
        let audit = self.entry("key.created", &key).detail(&json!({
            "key": key.id.to_string(),
            "project": key.project.as_str(),
            "expires_at": key.expires_at.map(antiphon_runtime::rfc3339),
        }));
        if !self.store.add_key(key.clone(), audit).await? {
            return Err(KeyError::NameTaken(key.name));
        }
        Ok((key, secret))
    }

    /// Replaces the secret. The old one keeps working for `overlap`; one that is older still stops working.
    pub async fn rotate(&self, name: &str, overlap: Duration) -> Result<(StoredKey, Secret), KeyError> {
        if overlap > MAX_OVERLAP {
            return Err(invalid("overlap_seconds", "the old secret can keep working for at most 30 days"));
        }
        let now = self.clock.now();
        let key = self.find(name).await?;
        let state = KeyState::from_stored(&key, now);
        let not_active = |state| Err(KeyError::NotActive { name: name.to_owned(), state });
        if state != KeyState::Active {
            return not_active(state);
        }
        let secret = Secret::mint();
        let previous_until = now.plus(overlap);
        let (hash, prefix) = (secret.hash(), secret.prefix());
        let rotation = Rotation { hash, prefix, previous: key.hash, previous_until };
        let audit = self.entry("key.rotated", &key).detail(&json!({
            "key": key.id.to_string(),
            "previous_secret_until": antiphon_runtime::rfc3339(previous_until),
        }));
        if !self.store.rotate_key(key.id, rotation, audit).await? {
            let key = self.find(name).await?;
            return match KeyState::from_stored(&key, now) {
                KeyState::Active => Err(KeyError::Rotated(key.name)),
                state => not_active(state),
            };
        }
        Ok((self.find(name).await?, secret))
    }

    /// Changes what the key allows. It applies to running gateways like every change of a key.
    pub async fn change(&self, name: &str, changes: KeyChanges) -> Result<StoredKey, KeyError> {
        let now = self.clock.now();
        let key = self.find(name).await?;
        let mut detail = json!({ "key": key.id.to_string() });
        let mut terms = KeyTerms::default();
        if let Some(models) = changes.models {
            terms.models = Some(models_text(&models)?);
            detail["models"] = json!(models);
        }
        if let Some(limits) = changes.limits {
            terms.limits = Some(limits_text(&limits)?);
            detail["limits"] = json!(limits);
        }
        if let Some(text) = changes.expires_at {
            let time = if text == "never" { None } else { Some(parse_expiry(&text, now)?) };
            terms.expiry = Some(time.map_or(Expiry::Never, Expiry::At));
            detail["expires_at"] = json!(time.map(antiphon_runtime::rfc3339));
        }
        let audit = self.entry("key.changed", &key).detail(&detail);
        if !self.store.change_key(key.id, terms, audit).await? {
            return Err(KeyError::NotActive { name: name.to_owned(), state: KeyState::Revoked });
        }
        self.find(name).await
    }

    /// Ends the key for good. Revoking it again changes nothing.
    pub async fn revoke(&self, name: &str) -> Result<StoredKey, KeyError> {
        let key = self.find(name).await?;
        let audit = self.entry("key.revoked", &key).detail(&json!({ "key": key.id.to_string() }));
        self.store.revoke_key(key.id, audit).await?;
        self.find(name).await
    }

    /// Removes the key and frees its name. The responses of its project stay.
    pub async fn delete(&self, name: &str) -> Result<StoredKey, KeyError> {
        let key = self.find(name).await?;
        let audit = self.entry("key.deleted", &key).detail(&json!({ "key": key.id.to_string() }));
        if self.store.delete_key(key.id, audit).await? { Ok(key) } else { Err(KeyError::NotFound(key.name)) }
    }

    fn entry(&self, action: &str, key: &StoredKey) -> AuditEntry {
        entry(self.clock, self.actor, action, &key.name)
    }
}

// === impl NewKey ===

impl NewKey {
    fn into_stored(self, now: Timestamp, secret: &Secret) -> Result<StoredKey, KeyError> {
        check_name("name", &self.name)?;
        if UNREACHABLE_NAMES.contains(&self.name.as_str()) {
            return Err(invalid("name", format!("\"{}\" is reserved, choose another name", self.name)));
        }
        let id = KeyId::mint(now.unix_ms().unsigned_abs(), &rand::rng().random());
        let project = match self.project {
            Some(project) => {
                check_name("project", &project)?;
                ProjectId::new(&project)
            }
            // Never a name that an operator may have chosen: the key would see that project's responses.
            None => ProjectId::new(&format!("proj_{}", id.uuid().as_simple())),
        };
        let models = models_text(&self.models.unwrap_or_default())?;
        let limits = limits_text(&self.limits.unwrap_or_default())?;
        Ok(StoredKey {
            id,
            name: self.name,
            project,
            hash: secret.hash(),
            prefix: secret.prefix(),
            models,
            limits,
            created_at: now,
            expires_at: self.expires_at.map(|text| parse_expiry(&text, now)).transpose()?,
            revoked_at: None,
            last_used_at: None,
            previous: None,
        })
    }
}

fn invalid(param: &'static str, why: impl std::fmt::Display) -> KeyError {
    KeyError::Invalid { param, why: why.to_string() }
}

fn check_name(param: &'static str, name: &str) -> Result<(), KeyError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(is_allowed) {
        return Ok(());
    }
    Err(invalid(param, format!("expected 1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 _ . -")))
}

/// Checked limits, as they are stored.
fn limits_text(limits: &LimitSettings) -> Result<String, KeyError> {
    Rules::new(limits).map_err(|error| invalid("limits", error))?;
    let text = json!(limits).to_string();
    if text.len() > MAX_LIMITS_BYTES {
        return Err(invalid("limits", format!("longer than {MAX_LIMITS_BYTES} bytes")));
    }
    Ok(text)
}

/// Checked models, as they are stored.
fn models_text(models: &[PatternText]) -> Result<String, KeyError> {
    check_models(models)?;
    Ok(json!(models).to_string())
}

fn check_models(models: &[PatternText]) -> Result<(), KeyError> {
    if models.len() > MAX_MODELS {
        return Err(invalid("models", format!("expected at most {MAX_MODELS} patterns")));
    }
    match models.iter().find(|pattern| pattern.parse().is_none()) {
        Some(PatternText(text)) => Err(invalid(
            "models",
            format!(
                "{text:?} is not a valid pattern: use a model name, with * for any characters and ? for one character"
            ),
        )),
        None => Ok(()),
    }
}

fn parse_expiry(text: &str, now: Timestamp) -> Result<Timestamp, KeyError> {
    match parse_rfc3339(text) {
        Some(time) if time > now => Ok(time),
        Some(_) => Err(invalid("expires_at", format!("{text} is in the past"))),
        None => Err(invalid(
            "expires_at",
            "expected an RFC 3339 time with a time zone, such as 2030-01-31T18:00:00+01:00".to_owned(),
        )),
    }
}
