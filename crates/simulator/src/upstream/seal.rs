//! Encrypted content: opaque to clients, readable only within the boundary that created it.

use std::fmt::Write;

const MAGIC: &str = "gAAAAA";

pub(super) fn seal(boundary: &str, unique: u64) -> String {
    let mut sealed = String::from(MAGIC);
    for byte in boundary.bytes() {
        write!(sealed, "{byte:02x}").expect("writing to a string cannot fail");
    }
    write!(sealed, "_{unique:016x}").expect("writing to a string cannot fail");
    sealed
}

pub(super) fn is_readable(boundary: &str, sealed: &str) -> bool {
    let own = seal(boundary, 0);
    let stem = own.rfind('_').map_or(own.as_str(), |end| &own[..=end]);
    sealed
        .strip_prefix(stem)
        .is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// How the real API names encrypted content in its messages: the first and last four characters.
pub(super) fn abbreviate(sealed: &str) -> String {
    let letters: Vec<char> = sealed.chars().collect();
    if letters.len() <= 8 {
        return sealed.to_owned();
    }
    let (first, last) = (&letters[..4], &letters[letters.len() - 4..]);
    format!("{}...{}", first.iter().collect::<String>(), last.iter().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_content_is_readable_only_within_its_boundary() {
        let sealed = seal("org-1", 7);
        assert!(is_readable("org-1", &sealed));
        assert!(!is_readable("org-2", &sealed));
        assert!(!is_readable("org-1", "gAAAAAmock"));
        assert!(!is_readable("org-1", &sealed[..sealed.len() - 1]));
    }
}
