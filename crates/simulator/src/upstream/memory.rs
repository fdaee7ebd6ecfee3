//! The responses that a stateful simulator stores.

use super::glance::Glance;
use super::received::lock;
use super::request::Items;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::Mutex;

#[derive(Debug, Default)]
pub(super) struct Memory {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    turns: HashMap<String, KeptTurn>,
    items: HashMap<String, Box<RawValue>>,
    /// The reasoning before an output item: by its id the item is accepted only together with that.
    reasoning_of: HashMap<String, String>,
}

#[derive(Debug)]
struct KeptTurn {
    parent: Option<String>,
    items: Items,
}

impl Memory {
    /// The items of the chain that ends with this response, root first; `None` if it is not stored.
    pub(super) fn load_chain(&self, id: &str) -> Option<Items> {
        let kept = lock(&self.kept);
        let mut turns = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            let turn = kept.turns.get(id)?;
            turns.push(&turn.items);
            next = turn.parent.as_deref();
        }
        Some(turns.into_iter().rev().flatten().cloned().collect())
    }

    /// Replaces item references by the stored items.
    pub(super) fn resolve(&self, items: &mut Items) {
        let kept = lock(&self.kept);
        for item in items {
            let Some(Glance { kind: Some(kind), id: Some(id), .. }) = Glance::at(item) else { continue };
            if let ("item_reference", Some(found)) = (kind.as_str(), kept.items.get(&id)) {
                *item = found.clone();
            }
        }
    }

    pub(super) fn clear(&self) {
        *lock(&self.kept) = Kept::default();
    }

    pub(super) fn knows_item(&self, id: &str) -> bool {
        lock(&self.kept).items.contains_key(id)
    }

    /// The reasoning that an item is accepted with.
    pub(super) fn reasoning_of(&self, id: &str) -> Option<String> {
        lock(&self.kept).reasoning_of.get(id).cloned()
    }

    pub(super) fn keep(&self, id: String, parent: Option<String>, mut items: Items, output: Items) {
        let mut kept = lock(&self.kept);
        let mut reasoning = None;
        for glance in output.iter().filter_map(|item| Glance::at(item)) {
            let is_reasoning = glance.kind() == "reasoning";
            match (glance.id, &reasoning) {
                (Some(id), _) if is_reasoning => reasoning = Some(id),
                (Some(id), Some(reasoning)) => drop(kept.reasoning_of.insert(id, reasoning.clone())),
                _ => {}
            }
        }
        items.extend(output);
        for item in &items {
            if let Some(Glance { id: Some(id), .. }) = Glance::at(item) {
                kept.items.insert(id, item.clone());
            }
        }
        kept.turns.insert(id, KeptTurn { parent, items });
    }
}
