//! Pages of `docs/reference`, which are generated from code and committed.

use std::path::{Path, PathBuf};

/// With this, tests write the pages instead of comparing them.
const WRITE_VARIABLE: &str = "ANTIPHON_WRITE_REFERENCE";

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Fails if a committed page is not what the code says.
#[expect(clippy::disallowed_methods, reason = "the gateway's own configuration is not read from it")]
pub fn assert_reference(page: &str, generated: &str) {
    let path = repository().join("docs/reference").join(page);
    if std::env::var(WRITE_VARIABLE).is_ok() {
        std::fs::write(&path, generated).expect("a writable folder");
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs =
        committed.lines().zip(generated.lines()).find(|(committed, generated)| committed != generated);
    assert!(
        committed == generated,
        "docs/reference/{page} is out of date, beginning with {differs:?}: run `make reference`, and commit what changes"
    );
}
