//! The admin tokens, one for each role.

use antiphon_access::admin::{self, AdminToken, Role};
use antiphon_access::audit::Actor;
use antiphon_runtime::rfc3339;
use serde::Serialize;
use utoipa::ToSchema;

use super::{OperationError, Operations};

/// A token that exists, without the token itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AdminToken)]
pub struct TokenView {
    pub role: Role,
    /// In RFC 3339, in UTC.
    pub created_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TokenList {
    pub tokens: Vec<TokenView>,
}

/// A new token, which is shown only once.
#[derive(Serialize, ToSchema)]
pub struct IssuedToken {
    pub role: Role,
    pub token: String,
}

// === impl Operations ===

impl Operations {
    /// Creates the first token of a store; `None` if there is one already.
    pub async fn create_first_admin_token(&self) -> Result<Option<AdminToken>, OperationError> {
        Ok(AdminToken::create_first(&*self.store, &*self.clock).await?)
    }

    /// Replaces the token of a role, or creates its first; the old one stops working, and its sessions end.
    pub async fn replace_admin_token(
        &self,
        role: Role,
        actor: Actor<'_>,
    ) -> Result<IssuedToken, OperationError> {
        let token = AdminToken::rotate(&*self.store, &*self.clock, role, actor).await?;
        Ok(IssuedToken { role, token: token.expose().to_owned() })
    }

    pub async fn list_admin_tokens(&self) -> Result<TokenList, OperationError> {
        let stored = self.store.list_admin_tokens().await?;
        let view = |(name, at): (String, _)| {
            Some(TokenView { role: Role::from_name(&name)?, created_at: rfc3339(at) })
        };
        Ok(TokenList { tokens: stored.into_iter().filter_map(view).collect() })
    }

    /// The role of the caller who presents this token.
    pub async fn authenticate(&self, token: Option<&str>) -> Result<Role, OperationError> {
        let Some(token) = token else { return Err(OperationError::InvalidAdminToken) };
        admin::verify(&*self.store, token).await?.ok_or(OperationError::InvalidAdminToken)
    }
}
