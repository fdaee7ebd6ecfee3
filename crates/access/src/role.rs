//! What an operator may do.

use serde::Serialize;
use utoipa::ToSchema;

/// The role of an operator. Each has an admin token of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Admin,
    /// Reads everything except what responses contain, and changes nothing.
    Viewer,
}

// === impl Role ===

impl Role {
    const ALL: [Self; 2] = [Self::Admin, Self::Viewer];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// What the role's tokens begin with. It distinguishes them from client keys.
    pub(crate) fn token_prefix(self) -> &'static str {
        match self {
            Self::Admin => "apn-admin-",
            Self::Viewer => "apn-viewer-",
        }
    }

    /// The role that a token claims.
    pub(crate) fn of_token(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| token.starts_with(role.token_prefix()))
    }
}
