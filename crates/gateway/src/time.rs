//! Times as operators read them.

use antiphon_store::Timestamp;

/// In RFC 3339, in UTC.
pub fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.unix_ms())
        .map_or_else(|_| format!("{} ms", time.unix_ms()), |time| time.to_string())
}
