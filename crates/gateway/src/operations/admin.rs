//! The admin token.

use antiphon_access::admin::{self, AdminToken};
use antiphon_access::audit::Actor;

use super::{OperationError, Operations};

// === impl Operations ===

impl Operations {
    /// The first token of a store; `None` if it has one.
    pub async fn make_first_admin_token(&self) -> Result<Option<AdminToken>, OperationError> {
        Ok(AdminToken::create_first(&*self.store, &*self.clock).await?)
    }

    /// Another token; the one before ends.
    pub async fn replace_admin_token(&self, actor: Actor) -> Result<AdminToken, OperationError> {
        Ok(AdminToken::rotate(&*self.store, &*self.clock, actor).await?)
    }

    /// Proves that the caller is an operator.
    pub async fn authenticate(&self, token: Option<&str>) -> Result<(), OperationError> {
        match token {
            Some(token) if admin::verify(&*self.store, token).await? => Ok(()),
            _ => Err(OperationError::InvalidAdminToken),
        }
    }
}
