//! The delay of deltas: the simulator writes into each when it was sent, where real ones carry random padding.

use memchr::memmem;
use std::time::{SystemTime, UNIX_EPOCH};

/// The start of the member that holds the stamp: 16 hexadecimal digits, in nanoseconds since 1970.
const MEMBER: &[u8] = b"\"obfuscation\":\"";
const DIGITS: usize = 16;

/// The stamps of one reply.
pub(crate) struct Stamps {
    enabled: bool,
    /// Up to where the reply has been searched.
    searched: usize,
    /// In nanoseconds.
    pub(crate) delays: Vec<u64>,
}

impl Stamps {
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, searched: 0, delays: Vec::new() }
    }

    /// Looks for stamps in what has arrived since the last call.
    pub(crate) fn read(&mut self, reply: &[u8]) {
        if !self.enabled {
            return;
        }
        let now = unix_nanoseconds();
        while let Some(found) = memmem::find(&reply[self.searched..], MEMBER) {
            let start = self.searched + found + MEMBER.len();
            let Some(digits) = reply.get(start..start + DIGITS) else { return };
            let stamp = str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            if let Some(sent_at) = stamp.filter(|sent_at| *sent_at > 0) {
                self.delays.push(now.saturating_sub(sent_at));
            }
            self.searched = start + DIGITS;
        }
        // The member may have begun at the end.
        self.searched = self.searched.max(reply.len().saturating_sub(MEMBER.len()));
    }
}

#[expect(clippy::disallowed_methods, reason = "the load generator compares its clock with the simulator's")]
fn unix_nanoseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Stamps;

    #[test]
    fn a_stamp_is_found_wherever_the_reply_is_split() {
        let reply = br#"{"delta":"x","obfuscation":"00000000000000ff"}{"obfuscation":"0000000000000100"}"#;
        for split in 0..=reply.len() {
            let mut stamps = Stamps::new(true);
            stamps.read(&reply[..split]);
            stamps.read(reply);
            assert_eq!(stamps.delays.len(), 2, "split at {split}");
        }
    }
}
