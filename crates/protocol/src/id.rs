//! Ids: minted here, parsed at the edge, and never plain strings inside.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// Declares an id: a prefix, and the 32 lower-case hex digits of a UUIDv7.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Mints an id from the time in milliseconds since the epoch (UTC) and ten random bytes.
            pub fn mint(unix_ms: u64, random: &[u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, random).into_uuid())
            }

            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                parse_hex(text.strip_prefix($prefix).ok_or(NotAnId)?).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; 32];
                f.write_str($prefix)?;
                f.write_str(self.0.as_simple().encode_lower(&mut buffer))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

uuid_id! {
    /// The id of a response.
    ///
    /// A string of any other form cannot be the id of a stored response, so parsing rejects most unknown ids without asking the
    /// store.
    ResponseId, "resp_"
}

uuid_id! {
    /// The id of a conversation.
    ConversationId, "conv_"
}

uuid_id! {
    /// The id of a client's key.
    KeyId, "key_"
}

/// A string that is not an id of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct NotAnId;

/// Who owns stored responses; part of every key in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectId(Arc<str>);

/// The id of an item, chosen by the upstream or the client; up to [`ItemId::MAX_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(Box<str>);

/// Accepts lower case only, so that nothing has two ids.
fn parse_hex(hex: &str) -> Result<Uuid, NotAnId> {
    let canonical = hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !canonical {
        return Err(NotAnId);
    }
    Uuid::try_parse(hex).map_err(|_| NotAnId)
}

// === impl ProjectId ===

impl ProjectId {
    /// The project of every caller as long as no keys are configured.
    pub const DEFAULT: &'static str = "default";

    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ItemId ===

impl ItemId {
    /// Longer ids are not indexed. No client or upstream is known to use more than 64 bytes.
    pub const MAX_BYTES: usize = 512;

    /// `None` for an id that is empty, too long, or contains a NUL, which not every database can store.
    pub fn new(text: &str) -> Option<Self> {
        let is_usable = !text.is_empty() && text.len() <= Self::MAX_BYTES && !text.contains('\0');
        is_usable.then(|| Self(text.into()))
    }

    /// The stable id of an item without one: a prefix such as `msg_`, which tells its type, the hex digits of the turn that has
    /// it, and its position among that turn's items.
    pub fn derived(prefix: &str, turn: ResponseId, position: u32) -> Self {
        Self(format!("{prefix}{}{position:08x}", turn.uuid().as_simple()).into())
    }

    /// The turn and the position of a [derived](Self::derived) id. Upstreams mint ids of another length.
    pub fn as_derived(&self) -> Option<(ResponseId, u32)> {
        let (prefix, hex) = self.0.rsplit_once('_').filter(|(_, hex)| hex.len() == 40 && hex.is_ascii())?;
        if prefix.is_empty() || !prefix.bytes().all(|letter| letter.is_ascii_lowercase()) {
            return None;
        }
        let (turn, position) = hex.split_at(32);
        let turn = parse_hex(turn).ok().filter(|turn| turn.get_version_num() == 7).map(ResponseId)?;
        let position = u32::from_str_radix(position, 16).ok()?;
        let is_canonical = *hex == *format!("{}{position:08x}", turn.uuid().as_simple());
        is_canonical.then_some((turn, position))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_id_parses_as_itself_and_as_no_other_kind() {
        let id = ResponseId::mint(1_795_210_024_000, &[7; 10]);
        let text = id.to_string();
        assert_eq!((text.len(), &text[..5]), (37, "resp_"));
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.parse::<ConversationId>(), Err(NotAnId));
        let conversation = ConversationId::from_uuid(id.uuid()).to_string();
        assert_eq!(conversation, text.replace("resp_", "conv_"));
        assert_eq!(KeyId::from_uuid(id.uuid()).to_string(), text.replace("resp_", "key_"));
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        assert!(ResponseId::mint(2, &[0; 10]) > ResponseId::mint(1, &[255; 10]));
    }

    #[test]
    fn another_spelling_of_an_id_is_not_an_id() {
        let text = ResponseId::mint(1_795_210_024_000, &[0xab; 10]).to_string();
        let upper = text.replace("ab", "AB");
        let hyphenated = text.parse::<ResponseId>().map(|id| format!("resp_{}", id.uuid())).unwrap();
        for wrong in [upper.as_str(), &hyphenated, "resp_", "", &text[5..], &format!("{text}0"), "resp_é"] {
            assert_eq!(wrong.parse::<ResponseId>(), Err(NotAnId), "{wrong}");
        }
    }

    #[test]
    fn a_derived_item_id_contains_its_response_and_position() {
        let response = ResponseId::mint(1, &[9; 10]);
        let id = ItemId::derived("fco_", response, 17);
        assert_eq!(id.as_derived(), Some((response, 17)));
        assert_eq!(ItemId::new("msg_0").unwrap().as_derived(), None);
        assert_eq!(ItemId::new(&id.as_str().to_uppercase()).unwrap().as_derived(), None);
        assert_eq!(ItemId::new(&format!("msg_{}", "é".repeat(20))).unwrap().as_derived(), None);
    }
}
