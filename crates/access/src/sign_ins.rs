//! Sign-ins of operators that wait for an identity provider. Each belongs to one browser and ends once.

use std::time::Duration;

use antiphon_runtime::hex;
use antiphon_store::{Clock, SecretHash, Store, StoreError, StoredSignIn};
use rand::RngExt;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How long an operator may take at the provider.
pub const SIGN_IN_LIFETIME: Duration = Duration::from_mins(10);
/// How many may wait, at all replicas. More make the oldest end.
const MAX_WAITING: u32 = 10_000;

/// What the provider was asked with, and what its reply is checked against.
#[derive(Debug, Clone)]
pub struct SignIn {
    pub state: String,
    pub nonce: String,
    /// Of PKCE.
    pub verifier: String,
    /// The page to show afterwards.
    pub next: Option<String>,
}

// === impl SignIn ===

impl SignIn {
    /// Keeps it until the provider replies. The secret is for the browser that has begun it.
    pub async fn begin(self, store: &dyn Store, clock: &dyn Clock) -> Result<SecretString, StoreError> {
        let random: [u8; 32] = rand::rng().random();
        let secret = hex::encode(random);
        let now = clock.now();
        let stored = StoredSignIn {
            hash: hash(&secret),
            state: self.state,
            nonce: self.nonce,
            verifier: self.verifier,
            next: self.next,
            expires_at: now.plus(SIGN_IN_LIFETIME),
        };
        store.add_sign_in(stored, now, MAX_WAITING).await?;
        Ok(secret.into())
    }

    /// Ends the browser's sign-in, if the reply belongs to it. `None` for another reply, which ends nothing, and for a sign-in
    /// that has ended before.
    pub async fn end(
        store: &dyn Store,
        clock: &dyn Clock,
        secret: &str,
        state: &str,
    ) -> Result<Option<Self>, StoreError> {
        let hash = hash(secret);
        let stored = store.load_sign_in(hash, clock.now()).await?;
        let is_of_reply = |stored: &StoredSignIn| stored.state.as_bytes().ct_eq(state.as_bytes()).into();
        let Some(stored) = stored.filter(is_of_reply) else { return Ok(None) };
        let is_ours = store.end_sign_in(hash).await?;
        let StoredSignIn { state, nonce, verifier, next, .. } = stored;
        Ok(is_ours.then_some(Self { state, nonce, verifier, next }))
    }
}

fn hash(secret: &str) -> SecretHash {
    SecretHash(Sha256::digest(secret).into())
}
