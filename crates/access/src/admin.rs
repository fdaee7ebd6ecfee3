//! The token of the admin API: created on the first start, shown once, stored as a hash.

use std::fmt;

use antiphon_store::{Clock, Store, StoreError};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::audit::{Actor, entry};
use antiphon_runtime::hex;

/// Distinguishes it from client keys.
const PREFIX: &str = "apn-admin-";

/// A token in plain text, to be shown to the operator once.
pub struct AdminToken(SecretString);

impl AdminToken {
    fn mint() -> Self {
        let random: [u8; 32] = rand::rng().random();
        Self(format!("{PREFIX}{}", hex::encode(random)).into())
    }

    /// Creates the first token of a store; `None` if the store has one already.
    pub async fn create_first(store: &dyn Store, clock: &dyn Clock) -> Result<Option<Self>, StoreError> {
        if store.load_admin_token().await?.is_some() {
            return Ok(None);
        }
        let token = Self::mint();
        let is_first = store
            .add_admin_token(
                hash(token.expose()),
                entry(clock, Actor::Gateway, "admin_token.created", "admin"),
            )
            .await?;
        Ok(is_first.then_some(token))
    }

    /// Replaces the token; the old one stops working.
    pub async fn rotate(store: &dyn Store, clock: &dyn Clock, actor: Actor) -> Result<Self, StoreError> {
        let token = Self::mint();
        store
            .replace_admin_token(hash(token.expose()), entry(clock, actor, "admin_token.replaced", "admin"))
            .await?;
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

/// Whether this is the store's token, compared in constant time.
pub async fn verify(store: &dyn Store, presented: &str) -> Result<bool, StoreError> {
    if !presented.starts_with(PREFIX) {
        return Ok(false);
    }
    let known = store.load_admin_token().await?;
    Ok(known.is_some_and(|known| bool::from(known.ct_eq(&hash(presented)))))
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token).to_vec()
}
