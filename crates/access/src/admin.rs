//! The tokens of the admin API, one for each role: shown once, stored as a hash.

use std::fmt;

use antiphon_store::{Clock, Store, StoreError};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::audit::{Actor, entry};
pub use crate::role::Role;
use antiphon_runtime::hex;

/// A token in plain text, to be shown to the operator once.
pub struct AdminToken(SecretString);

impl AdminToken {
    fn mint(role: Role) -> Self {
        let random: [u8; 32] = rand::rng().random();
        Self(format!("{}{}", role.token_prefix(), hex::encode(random)).into())
    }

    /// Creates the first admin's token of a store; `None` if the store has one already.
    pub async fn create_first(store: &dyn Store, clock: &dyn Clock) -> Result<Option<Self>, StoreError> {
        let name = Role::Admin.as_str();
        if store.load_admin_token(name).await?.is_some() {
            return Ok(None);
        }
        let token = Self::mint(Role::Admin);
        let audit = entry(clock, Actor::Gateway, "admin_token.created", name);
        let is_first = store.add_admin_token(name, hash(token.expose()), audit).await?;
        Ok(is_first.then_some(token))
    }

    /// Replaces the token of a role, or creates its first. The old one stops working, and so do its sessions.
    pub async fn rotate(
        store: &dyn Store,
        clock: &dyn Clock,
        role: Role,
        actor: Actor<'_>,
    ) -> Result<Self, StoreError> {
        let token = Self::mint(role);
        let audit = entry(clock, actor, "admin_token.replaced", role.as_str());
        store.replace_admin_token(role.as_str(), hash(token.expose()), audit).await?;
        Ok(token)
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

/// The role whose token this is; compared in constant time.
pub async fn verify(store: &dyn Store, presented: &str) -> Result<Option<Role>, StoreError> {
    let Some(role) = Role::of_token(presented) else { return Ok(None) };
    let known = store.load_admin_token(role.as_str()).await?;
    let is_known = known.is_some_and(|known| bool::from(known.ct_eq(&hash(presented))));
    Ok(is_known.then_some(role))
}

/// As it is stored.
pub fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token).to_vec()
}
