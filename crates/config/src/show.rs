//! Printing the resolved configuration. Secrets are shown as their source or as `<redacted>`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Config, values};

/// A configuration as a tree that keeps the order of its keys.
enum Node {
    /// A scalar in JSON, which TOML writes the same way.
    Scalar(String),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

impl Config {
    /// The configuration as TOML, with durations and sizes as they are written. It can be loaded again once redacted secrets are
    /// filled in.
    pub fn show(&self) -> String {
        let mut node: Node = serde_json::from_str(&self.show_json()).expect("serialised JSON parses");
        node.restore("", &self.written);
        let mut toml = String::new();
        if let Node::Table(entries) = node {
            write_table("", &entries, &mut toml);
        }
        toml
    }

    /// The configuration as one JSON object.
    pub fn show_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("string keys and plain values always serialise")
    }
}

/// Writes the top level and its sections, which hold no sections themselves.
fn write_table(name: &str, entries: &[(String, Node)], toml: &mut String) {
    for (key, node) in entries.iter().filter(|(_, node)| !node.is_section(name)) {
        toml.push_str(&format!("{} = {}\n", quote_key(key), node.inline()));
    }
    for (key, node) in entries.iter().filter(|(_, node)| node.is_section(name)) {
        match node {
            Node::Table(entries) => {
                toml.push_str(&format!("\n[{key}]\n"));
                write_table(key, entries, toml);
            }
            Node::List(tables) => {
                for table in tables {
                    if let Node::Table(entries) = table {
                        toml.push_str(&format!("\n[[{key}]]\n"));
                        write_table(key, entries, toml);
                    }
                }
            }
            Node::Scalar(_) => {}
        }
    }
}

impl Node {
    /// Replaces durations and sizes by what is written for them.
    fn restore(&mut self, key: &str, written: &BTreeMap<String, String>) {
        match self {
            Self::Table(entries) => {
                for (name, node) in entries {
                    let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    node.restore(&key, written);
                }
            }
            // All durations and sizes are serialised as strings.
            Self::Scalar(json) if json.starts_with('"') => {
                if let Some(text) = written.get(key).filter(|text| values::means_same(text, json)) {
                    json.clone_from(text);
                }
            }
            Self::Scalar(_) | Self::List(_) => {}
        }
    }

    /// Whether this node of the table `parent` is written under a heading of its own.
    fn is_section(&self, parent: &str) -> bool {
        let is_tables = match self {
            Self::Scalar(_) => false,
            Self::List(nodes) => matches!(nodes.first(), Some(Self::Table(_))),
            Self::Table(_) => true,
        };
        parent.is_empty() && is_tables
    }

    fn inline(&self) -> String {
        match self {
            // The only control character that is valid in JSON strings and not in TOML.
            Self::Scalar(json) => json.replace('\u{7f}', "\\u007f"),
            Self::List(nodes) => {
                format!("[{}]", nodes.iter().map(Self::inline).collect::<Vec<_>>().join(", "))
            }
            Self::Table(entries) => {
                let entries: Vec<String> = entries
                    .iter()
                    .map(|(key, node)| format!("{} = {}", quote_key(key), node.inline()))
                    .collect();
                format!("{{ {} }}", entries.join(", "))
            }
        }
    }
}

/// Quotes a key if TOML requires it.
fn quote_key(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !key.is_empty() && key.bytes().all(is_bare) {
        key.to_owned()
    } else {
        Node::Scalar(serde_json::Value::from(key).to_string()).inline()
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true or false, a list or a table")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Scalar(serde_json::Value::from(text).to_string()))
    }

    fn visit_bool<E>(self, is_on: bool) -> Result<Node, E> {
        Ok(Node::Scalar(is_on.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Scalar(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Scalar(serde_json::Value::from(number).to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Table(entries))
    }
}
