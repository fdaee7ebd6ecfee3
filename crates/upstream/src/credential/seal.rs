//! Encryption of stored tokens: XChaCha20-Poly1305 with a key from a file.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use antiphon_runtime::hex;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use rand::RngExt;

/// The first byte of everything that is sealed. Another way of sealing would have another version.
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;

/// Seals and opens with one key, which is read or created when it is first needed.
pub(crate) struct Sealer {
    file: PathBuf,
    cipher: OnceLock<XChaCha20Poly1305>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum SealError {
    #[error("the key file {path} cannot be {operation}: {reason}")]
    File { path: String, operation: &'static str, reason: String },
    #[error("the key file {0} does not contain 64 hex digits")]
    InvalidKeyFile(String),
    #[error(
        "the stored tokens were encrypted with a different key: every replica needs the same store.key_file"
    )]
    WrongKey,
    #[error("encryption failed")]
    EncryptionFailed,
}

// === impl Sealer ===

impl Sealer {
    pub fn new(file: PathBuf) -> Self {
        Self { file, cipher: OnceLock::new() }
    }

    /// Encrypts. Opening needs the same `associated_data`.
    pub fn seal(&self, plain: &[u8], associated_data: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce: [u8; NONCE_BYTES] = rand::rng().random();
        let payload = Payload { msg: plain, aad: associated_data };
        let sealed = self.cipher()?.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| SealError::EncryptionFailed)?;
        Ok([&[VERSION][..], &nonce, &sealed].concat())
    }

    pub fn open(&self, sealed: &[u8], associated_data: &[u8]) -> Result<Vec<u8>, SealError> {
        let [VERSION, rest @ ..] = sealed else { return Err(SealError::WrongKey) };
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::WrongKey)?;
        let payload = Payload { msg: text, aad: associated_data };
        self.cipher()?.decrypt(&XNonce::from(*nonce), payload).map_err(|_| SealError::WrongKey)
    }

    /// Reads or creates the key, if that has not been done.
    pub fn load(&self) -> Result<(), SealError> {
        self.cipher().map(|_| ())
    }

    fn cipher(&self) -> Result<&XChaCha20Poly1305, SealError> {
        if let Some(cipher) = self.cipher.get() {
            return Ok(cipher);
        }
        let key = load_or_create(&self.file)?;
        Ok(self.cipher.get_or_init(|| XChaCha20Poly1305::new(&Key::from(key))))
    }
}

fn load_or_create(file: &Path) -> Result<[u8; 32], SealError> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse_key(&text).ok_or_else(|| SealError::InvalidKeyFile(file.display().to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(file).map_err(|error| file_error(file, "created", &error))?;
            tracing::info!(file = %file.display(), "created the key file that encrypts stored tokens; keep a backup of it");
            // Another process may have been first.
            let text = std::fs::read_to_string(file).map_err(|error| file_error(file, "read", &error))?;
            parse_key(&text).ok_or_else(|| SealError::InvalidKeyFile(file.display().to_string()))
        }
        Err(error) => Err(file_error(file, "read", &error)),
    }
}

fn file_error(file: &Path, operation: &'static str, error: &std::io::Error) -> SealError {
    SealError::File { path: file.display().to_string(), operation, reason: error.to_string() }
}

/// Creates the file whole or not at all, readable only by its owner. An existing file stays.
fn create(file: &Path) -> std::io::Result<()> {
    let key: [u8; 32] = rand::rng().random();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    // A name of its own: the process may have been killed before, and has the same id in each run of a container.
    let name: [u8; 8] = rand::rng().random();
    let draft = file.with_extension(format!("{}.new", hex::encode(name)));
    let created =
        write_draft(&draft, &hex::encode(key)).and_then(|()| match std::fs::hard_link(&draft, file) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        });
    std::fs::remove_file(&draft).ok();
    // What the key seals outlasts a power cut, so the key has to. Not every folder can be opened, or written out.
    File::open(folder).and_then(|folder| folder.sync_all()).ok();
    created
}

fn write_draft(draft: &Path, key: &str) -> std::io::Result<()> {
    let mut writer = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    writer.write_all(format!("{key}\n").as_bytes())?;
    writer.sync_all()
}

fn parse_key(text: &str) -> Option<[u8; 32]> {
    hex::decode(text.trim())?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn sealed_data_opens_only_with_the_same_key_and_associated_data() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deep/antiphon.key");
        let sealed = Sealer::new(file.clone()).seal(b"secret", b"a").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let again = Sealer::new(file.clone());
        assert_eq!(again.open(&sealed, b"a").unwrap(), b"secret");
        assert!(matches!(again.open(&sealed, b"b"), Err(SealError::WrongKey)));
        let other = Sealer::new(directory.path().join("other.key"));
        assert!(matches!(other.open(&sealed, b"a"), Err(SealError::WrongKey)));
        for broken in [&sealed[..20], &sealed[1..], &[]] {
            assert!(matches!(again.open(broken, b"a"), Err(SealError::WrongKey)));
        }
        assert_ne!(sealed, again.seal(b"secret", b"a").unwrap(), "a nonce is used once");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn an_existing_key_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("antiphon.key");
        let first = load_or_create(&file).unwrap();
        assert!(create(&file).is_ok(), "an existing file stays");
        assert_eq!(load_or_create(&file).unwrap(), first);
    }

    #[test]
    fn all_who_create_the_key_at_once_get_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("antiphon.key");
        let keys = std::thread::scope(|scope| {
            let creating = [(); 16].map(|()| scope.spawn(|| load_or_create(&file).unwrap()));
            creating.map(|thread| thread.join().unwrap())
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn an_invalid_key_file_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("antiphon.key");
        std::fs::write(&file, "ab").unwrap();
        let error = Sealer::new(file).seal(b"x", b"").unwrap_err();
        assert!(error.to_string().contains("64 hex digits"), "{error}");
    }
}
