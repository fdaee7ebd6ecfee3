//! The secret of a key: shown once, stored as a hash.

use std::fmt;

use antiphon_store::SecretHash;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use antiphon_runtime::hex;

const PREFIX: &str = "apn-";
const RANDOM_BYTES: usize = 32;
/// How much of it lists show: enough to recognise it, and too little to help with guessing the rest.
const SHOWN_CHARACTERS: usize = PREFIX.len() + 8;

/// A secret in plain text, to be shown to the operator.
pub struct Secret(SecretString);

// === impl Secret ===

impl Secret {
    pub(crate) fn mint() -> Self {
        let random: [u8; RANDOM_BYTES] = rand::rng().random();
        Self(format!("{PREFIX}{}", hex::encode(random)).into())
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    pub(super) fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.expose()).into())
    }

    /// The first characters, by which people recognise it.
    pub(super) fn prefix(&self) -> String {
        self.expose().chars().take(SHOWN_CHARACTERS).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The hash of what a client presents; `None` if it does not have the form of a secret. The hash may be looked up without
/// constant-time comparison: an attacker who measures the time cannot choose the hash that is compared.
pub(super) fn hash_presented(presented: &[u8]) -> Option<SecretHash> {
    let random = presented.strip_prefix(PREFIX.as_bytes())?;
    (random.len() == 2 * RANDOM_BYTES).then(|| SecretHash(Sha256::digest(presented).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_by_its_hash_and_never_printed() {
        let secret = Secret::mint();
        assert_eq!((secret.expose().len(), secret.prefix().len()), (68, 12));
        assert!(secret.expose().starts_with(&secret.prefix()));
        assert!(hash_presented(secret.expose().as_bytes()).unwrap() == secret.hash());
        assert_ne!(secret.expose(), Secret::mint().expose());
        assert_eq!(format!("{secret:?} {:?}", secret.hash()), "Secret SecretHash");
        let short = &secret.expose()[..67];
        for wrong in ["", "apn-", short, &secret.expose().replace("apn", "sk-"), "sk-any"] {
            assert!(hash_presented(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
