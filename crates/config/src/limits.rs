//! `[limits]`: the size of requests and chains, and the memory and connections for them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::Problems;
use super::values::{self, bytes, count, format_bytes};

const MIB: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct LimitsConfig {
    /// The largest request body, in bytes; also of a WebSocket message. Default: 64 MiB.
    #[serde(with = "bytes")]
    pub max_body: usize,

    /// The memory that the process may take: past 80 % of it, new turns are refused. Default: auto.
    pub memory: MemoryLimit,

    /// Memory for request bodies and for long replies, over all connections; further requests wait. One project can hold a
    /// quarter of it, or one body of the maximum size if that is more. Default: 1 GiB.
    #[serde(with = "bytes")]
    pub body_memory: usize,

    /// The longest chain that can be continued, in turns. Default: 10,000.
    #[serde(deserialize_with = "count::deserialize")]
    pub max_chain_depth: u32,

    /// The largest history that is replayed, in bytes. Default: 64 MiB.
    #[serde(with = "bytes")]
    pub max_history: usize,

    /// The most items of a conversation. Default: 100,000.
    #[serde(deserialize_with = "count::deserialize")]
    pub max_conversation_items: u32,

    /// The most that a conversation may add to the store, in bytes. Default: 256 MiB.
    #[serde(with = "bytes")]
    pub max_conversation: usize,

    /// The most that the conversations of a project may add to the store together, in bytes. Default: 10 GiB.
    #[serde(with = "bytes")]
    pub max_project_conversations: usize,

    /// The maximum number of open client connections. Default: 10,000.
    #[serde(deserialize_with = "count::deserialize")]
    pub max_connections: usize,

    /// Output tokens that a turn of a limited key reserves if its request has no `max_output_tokens`. Default: 1,000.
    #[serde(deserialize_with = "count::deserialize")]
    pub assumed_output_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The limit of the process's cgroups, or else the memory of the machine.
    Auto,
    Bytes(usize),
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_body: 64 * MIB,
            memory: MemoryLimit::Auto,
            body_memory: 1024 * MIB,
            max_chain_depth: 10_000,
            max_history: 64 * MIB,
            max_conversation_items: 100_000,
            max_conversation: 256 * MIB,
            max_project_conversations: 10 * 1024 * MIB,
            max_connections: 10_000,
            assumed_output_tokens: 1_000,
        }
    }
}

impl LimitsConfig {
    /// What one tenant may hold of `body_memory`: a quarter, and at least enough for one body.
    pub fn body_memory_share(&self) -> usize {
        self.max_body.max(self.body_memory / 4)
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        for (key, size) in [
            ("limits.max_body", self.max_body),
            ("limits.max_history", self.max_history),
            ("limits.max_conversation", self.max_conversation),
            ("limits.max_project_conversations", self.max_project_conversations),
        ] {
            if size == 0 {
                problems.reject(key, "must be above zero");
            }
        }
        // With a value that was rejected, the default would be compared.
        if self.body_memory < self.max_body && !problems.concern("limits.max_body") {
            let (memory, body) = (format_bytes(self.body_memory), format_bytes(self.max_body));
            problems.reject(
                "limits.body_memory",
                format!("is {memory} and must be at least limits.max_body, which is {body}"),
            );
        }
    }
}

// === impl MemoryLimit ===

impl Serialize for MemoryLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Bytes(bytes) => bytes::serialize(bytes, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MemoryLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const RULE: &str = r#""auto", or a size in bytes such as 1073741824 or "2GiB", above zero"#;
        values::parse(deserializer, RULE, |raw| match raw {
            values::RawValue::Text(text) if text == "auto" => Some(Self::Auto),
            other => {
                let bytes = other.bytes().and_then(|bytes| usize::try_from(bytes).ok());
                bytes.filter(|bytes| *bytes > 0).map(Self::Bytes)
            }
        })
    }
}
