//! The time at which a delta was sent, written where real deltas carry random padding. A reader on the same machine sees how
//! long the delta took.

use super::clock::unix_nanoseconds;
use bytes::Bytes;
use memchr::memmem;

/// The start of the member that holds the stamp: 16 hexadecimal digits, in nanoseconds since 1970.
const MEMBER: &str = "\"obfuscation\":\"";
const DIGITS: usize = 16;

/// The member with an empty stamp.
pub(super) fn empty() -> String {
    format!("{MEMBER}{}\"", "0".repeat(DIGITS))
}

/// An event with the present time in its stamp. Events without a stamp are not copied.
pub(super) fn stamped(event: &Bytes) -> Bytes {
    let Some(at) = memmem::rfind(event, MEMBER.as_bytes()) else { return event.clone() };
    let mut stamped = event.to_vec();
    let digits = format!("{:016x}", unix_nanoseconds());
    stamped[at + MEMBER.len()..][..DIGITS].copy_from_slice(digits.as_bytes());
    stamped.into()
}
