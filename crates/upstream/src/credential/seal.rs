//! Encryption of what is kept in the store: XChaCha20-Poly1305 with a key from a file.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use antiphon_runtime::hex;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use rand::RngExt;

/// What the first byte of everything sealed says: how it was done.
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;

/// Seals and opens with one key, which is read, or made, when it is first needed.
pub struct Sealer {
    file: PathBuf,
    cipher: OnceLock<XChaCha20Poly1305>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum SealError {
    #[error("the key file {path} can't be {what}: {reason}")]
    File { path: String, what: &'static str, reason: String },
    #[error("the key file {0} does not hold 64 hex digits")]
    NoKey(String),
    #[error(
        "the tokens in the store were encrypted with another key: every replica needs the same store.key_file"
    )]
    OtherKey,
    #[error("they can't be encrypted")]
    NotSealed,
}

// === impl Sealer ===

impl Sealer {
    pub fn new(file: PathBuf) -> Self {
        Self { file, cipher: OnceLock::new() }
    }

    /// Encrypts; `purpose` has to be the same when it is opened.
    pub fn seal(&self, plain: &[u8], purpose: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce: [u8; NONCE_BYTES] = rand::rng().random();
        let payload = Payload { msg: plain, aad: purpose };
        let sealed = self.cipher()?.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| SealError::NotSealed)?;
        Ok([&[VERSION][..], &nonce, &sealed].concat())
    }

    pub fn open(&self, sealed: &[u8], purpose: &[u8]) -> Result<Vec<u8>, SealError> {
        let [VERSION, rest @ ..] = sealed else { return Err(SealError::OtherKey) };
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::OtherKey)?;
        let payload = Payload { msg: text, aad: purpose };
        self.cipher()?.decrypt(&XNonce::from(*nonce), payload).map_err(|_| SealError::OtherKey)
    }

    /// Reads or makes the key, if that has not been done.
    pub fn load(&self) -> Result<(), SealError> {
        self.cipher().map(|_| ())
    }

    fn cipher(&self) -> Result<&XChaCha20Poly1305, SealError> {
        if let Some(cipher) = self.cipher.get() {
            return Ok(cipher);
        }
        let key = load_or_make(&self.file)?;
        Ok(self.cipher.get_or_init(|| XChaCha20Poly1305::new(&Key::from(key))))
    }
}

fn load_or_make(file: &Path) -> Result<[u8; 32], SealError> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(&text).ok_or_else(|| SealError::NoKey(file.display().to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(file).map_err(|error| failed(file, "made", &error))?;
            tracing::info!(file = %file.display(), "made a key to encrypt tokens with: keep a copy of it");
            // Somebody else may have been first.
            let text = std::fs::read_to_string(file).map_err(|error| failed(file, "read", &error))?;
            parse(&text).ok_or_else(|| SealError::NoKey(file.display().to_string()))
        }
        Err(error) => Err(failed(file, "read", &error)),
    }
}

fn failed(file: &Path, what: &'static str, error: &std::io::Error) -> SealError {
    SealError::File { path: file.display().to_string(), what, reason: error.to_string() }
}

/// Makes the file whole or not at all, for its owner alone; one that is there stays.
fn make(file: &Path) -> std::io::Result<()> {
    let key: [u8; 32] = rand::rng().random();
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let draft = file.with_extension(format!("{}.new", std::process::id()));
    let mut writer = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    writer.write_all(format!("{}\n", hex::encode(key)).as_bytes())?;
    writer.sync_all()?;
    let linked = std::fs::hard_link(&draft, file);
    std::fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn parse(text: &str) -> Option<[u8; 32]> {
    hex::decode(text.trim())?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_purpose_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deep/antiphon.key");
        let sealed = Sealer::new(file.clone()).seal(b"secret", b"a").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let again = Sealer::new(file.clone());
        assert_eq!(again.open(&sealed, b"a").unwrap(), b"secret");
        assert!(matches!(again.open(&sealed, b"b"), Err(SealError::OtherKey)));
        let other = Sealer::new(directory.path().join("other.key"));
        assert!(matches!(other.open(&sealed, b"a"), Err(SealError::OtherKey)));
        for broken in [&sealed[..20], &sealed[1..], &[]] {
            assert!(matches!(again.open(broken, b"a"), Err(SealError::OtherKey)));
        }
        assert_ne!(sealed, again.seal(b"secret", b"a").unwrap(), "a nonce is used once");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn of_many_that_make_the_key_at_once_all_have_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("antiphon.key");
        let first = load_or_make(&file).unwrap();
        assert!(make(&file).is_ok(), "one that is there stays");
        assert_eq!(load_or_make(&file).unwrap(), first);
    }

    #[test]
    fn a_file_that_is_no_key_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("antiphon.key");
        std::fs::write(&file, "ab").unwrap();
        let error = Sealer::new(file).seal(b"x", b"").unwrap_err();
        assert!(error.to_string().contains("64 hex digits"), "{error}");
    }
}
