//! Ids of calls for servers that take nine letters and digits and nothing else.

use sha2::{Digest, Sha256};

const LENGTH: usize = 9;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The id itself if it has that form, such as the server's own, and else a hash of it.
pub fn short_id(id: &[u8]) -> Vec<u8> {
    if id.len() == LENGTH && id.iter().all(u8::is_ascii_alphanumeric) {
        return id.to_vec();
    }
    let hash = Sha256::digest(id);
    // Some digits come a little more often than others, which does no harm.
    hash.iter().take(LENGTH).map(|byte| DIGITS[usize::from(*byte) % DIGITS.len()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_that_form_stays_and_any_other_one_gets_it() {
        assert_eq!(short_id(b"a1B2c3D4e"), b"a1B2c3D4e");
        let others: Vec<_> =
            ["", "call_1", "call_2", "call_1234", "a1B2c3D4e5"].map(|id| short_id(id.as_bytes())).into();
        for (place, id) in others.iter().enumerate() {
            assert!(id.len() == LENGTH && id.iter().all(u8::is_ascii_alphanumeric));
            assert!(!others[..place].contains(id));
        }
        assert_eq!(short_id(b"call_1"), short_id(b"call_1"));
    }
}
