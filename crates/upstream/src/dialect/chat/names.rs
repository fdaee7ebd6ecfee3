//! The names of tools in a chat, which knows no namespaces, and no long names.

use std::collections::HashMap;

use antiphon_protocol::json;
use sha2::{Digest, Sha256};

use super::{escaped, inner};

/// How long a function's name is at most servers, in bytes.
const MAX_NAME: usize = 64;

/// How much of a longer name remains. The rest is for the hash between both ends.
const MAX_HEAD: usize = 15;
const MAX_TAIL: usize = MAX_NAME - MAX_HEAD - "_01234567_".len();

/// What the client calls a tool: its own name and its namespace, which may be empty, as they stand in a JSON string.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OwnName {
    pub name: Vec<u8>,
    pub namespace: Vec<u8>,
}

/// The names in a chat of those of the request's tools that the client calls otherwise, as JSON strings.
pub type ChatNames = HashMap<OwnName, Vec<u8>>;

// === impl OwnName ===

impl OwnName {
    /// Of a tool's name and its namespace, which are JSON strings.
    pub fn of(name: &[u8], namespace: Option<&[u8]>) -> Option<Self> {
        let namespace = namespace.and_then(inner).unwrap_or_default();
        Some(Self { name: inner(name)?.to_vec(), namespace: namespace.to_vec() })
    }

    /// The name in a chat, a JSON string, unless another tool has it.
    pub fn flat(&self) -> Vec<u8> {
        let gap: &[u8] = if self.namespace.is_empty() { b"" } else { b"__" };
        shortened([b"\"", &self.namespace[..], gap, &self.name, b"\""].concat())
    }
}

/// The name of a tool in a chat. All are JSON strings.
pub fn flat_name(name: &[u8], namespace: Option<&[u8]>, names: &ChatNames) -> Vec<u8> {
    let Some(own) = OwnName::of(name, namespace) else { return name.to_vec() };
    names.get(&own).cloned().unwrap_or_else(|| own.flat())
}

/// A name with a number after it. Both are JSON strings.
pub fn numbered(name: &[u8], number: u32) -> Vec<u8> {
    shortened([&name[..name.len() - 1], format!("_{number}\"").as_bytes()].concat())
}

/// A name that servers take, and that is the same in every turn: both ends of a long one, and a hash. Both are JSON strings.
fn shortened(name: Vec<u8>) -> Vec<u8> {
    if name.len() <= MAX_NAME + "\"\"".len() {
        return name;
    }
    let Some(text) = json::string(&name).filter(|text| text.len() > MAX_NAME) else { return name };
    let [a, b, c, d, ..] = Sha256::digest(text.as_bytes()).0;
    let hash = u32::from_be_bytes([a, b, c, d]);
    let head = &text[..text.floor_char_boundary(MAX_HEAD)];
    let tail = &text[text.ceil_char_boundary(text.len() - MAX_TAIL)..];
    [b"\"", &escaped(&format!("{head}_{hash:08x}_{tail}"))[..], b"\""].concat()
}
