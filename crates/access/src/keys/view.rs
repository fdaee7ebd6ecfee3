//! Keys as operators see them.

use antiphon_store::{StoredKey, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Secret;
use crate::limits::LimitSettings;
use antiphon_runtime::rfc3339;

/// A key, without its secret. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
pub struct KeyView {
    #[schema(example = "key_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b")]
    pub id: String,
    #[schema(example = "laptop")]
    pub name: String,
    /// Keys of one project share responses.
    pub project: String,
    /// The first characters of the secret.
    #[schema(example = "apn-1f2e3d4c")]
    pub prefix: String,
    pub state: KeyState,
    /// Allowed models; empty allows all models.
    pub models: Vec<String>,
    /// Limits of the key.
    #[schema(value_type = LimitSettings)]
    pub limits: Map<String, Value>,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub revoked_at: Option<String>,
    /// Recorded once a minute.
    pub last_used_at: Option<String>,
    /// When the previous secret stops working.
    pub previous_secret_until: Option<String>,
}

/// A key with its new secret, which is shown only once.
#[derive(Serialize, ToSchema)]
pub struct KeyWithSecret {
    #[serde(flatten)]
    pub key: KeyView,
    /// Send it as `authorization: Bearer`.
    #[schema(pattern = "^apn-[0-9a-f]{64}$")]
    pub secret: String,
}

/// Whether a key is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    Active,
    Expired,
    Revoked,
}

// === impl KeyView ===

impl KeyView {
    pub fn new(key: &StoredKey, now: Timestamp) -> Self {
        let until = key.previous.map(|(_, until)| until).filter(|until| *until > now);
        Self {
            id: key.id.to_string(),
            name: key.name.clone(),
            project: key.project.as_str().to_owned(),
            prefix: key.prefix.clone(),
            state: KeyState::from_stored(key, now),
            models: serde_json::from_str(&key.models).unwrap_or_default(),
            limits: serde_json::from_str(&key.limits).unwrap_or_default(),
            created_at: rfc3339(key.created_at),
            expires_at: key.expires_at.map(rfc3339),
            revoked_at: key.revoked_at.map(rfc3339),
            last_used_at: key.last_used_at.map(rfc3339),
            previous_secret_until: until.map(rfc3339),
        }
    }
}

// === impl KeyWithSecret ===

impl KeyWithSecret {
    pub fn new(key: KeyView, secret: &Secret) -> Self {
        Self { key, secret: secret.expose().to_owned() }
    }
}

// === impl KeyState ===

impl KeyState {
    pub(crate) fn from_stored(key: &StoredKey, now: Timestamp) -> Self {
        if key.revoked_at.is_some() {
            Self::Revoked
        } else if key.expires_at.is_some_and(|end| end <= now) {
            Self::Expired
        } else {
            Self::Active
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}
