//! The token of the admin API: made on the first start, shown once, kept as a hash.

use std::fmt;

use antiphon_store::{Clock, Store, StoreError};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::audit::{Actor, entry};
use antiphon_runtime::hex;

/// Tells it from the keys of clients.
const PREFIX: &str = "apn-admin-";

/// A token in plain text, to be shown to the operator.
pub struct AdminToken(SecretString);

impl AdminToken {
    fn mint() -> Self {
        let random: [u8; 32] = rand::rng().random();
        Self(format!("{PREFIX}{}", hex::encode(&random)).into())
    }

    /// The first token of a store; `None` if it has one.
    pub async fn make_first(store: &dyn Store, clock: &dyn Clock) -> Result<Option<Self>, StoreError> {
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

    /// Another token; the one before is of no use any more.
    pub async fn make_another(
        store: &dyn Store,
        clock: &dyn Clock,
        actor: Actor,
    ) -> Result<Self, StoreError> {
        let token = Self::mint();
        store
            .replace_admin_token(hash(token.expose()), entry(clock, actor, "admin_token.replaced", "admin"))
            .await?;
        Ok(token)
    }

    /// The text, to be shown once.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

/// Whether this is the store's token. Takes as long for any other of its form.
pub async fn is_token(store: &dyn Store, presented: &str) -> Result<bool, StoreError> {
    if !presented.starts_with(PREFIX) {
        return Ok(false);
    }
    let known = store.load_admin_token().await?;
    Ok(known.is_some_and(|known| bool::from(known.ct_eq(&hash(presented)))))
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token).to_vec()
}
