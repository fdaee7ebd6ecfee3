//! Resolve: from `previous_response_id` and item references to the items that go upstream.

use std::sync::Arc;

use antiphon_protocol::id::{ItemId, ResponseId};
use antiphon_protocol::item;
use antiphon_protocol::json;
use antiphon_protocol::replay::ReplayIds;
use antiphon_protocol::request::{UpstreamInput, push_turn};
use antiphon_protocol::response::{array, has_compaction};
use antiphon_store::chain::Turn as StoredTurn;
use bytes::Bytes;

use super::{Failure, Turn};

/// What a turn continues, and what it adds.
pub struct Resolved {
    pub parent: Option<Arc<StoredTurn>>,
    /// The turn's own items as they are stored.
    pub input: Bytes,
    /// Whether `input` is not what the client sent, as stored items stand where it named them.
    has_replaced_items: bool,
    /// Positions of input items whose ids are an upstream's.
    pub referenced: Vec<u32>,
    /// The turns whose items are replayed, root first.
    replayed: Vec<Arc<StoredTurn>>,
}

impl Turn {
    /// Loads what the request names, and holds it against the limits.
    pub(super) async fn resolve(&mut self) -> Result<Resolved, Failure> {
        if let Some(id) = &self.create.conversation {
            return Err(Failure::ConversationNotFound(id.clone()));
        }
        if self.create.store && !self.turns.chains.is_available() {
            return Err(Failure::StoreUnavailable);
        }
        let parent = match self.create.previous_response_id.clone() {
            None => None,
            Some(id) => Some(self.load_parent(id).await?),
        };
        self.ledger.depth = parent.as_ref().map_or(1, |parent| parent.depth + 1);
        let scan = self.create.input.scan();
        let mut resolved = Resolved {
            parent,
            input: self.create.input.items(),
            has_replaced_items: !scan.references.is_empty(),
            referenced: Vec::new(),
            replayed: Vec::new(),
        };
        if resolved.has_replaced_items {
            self.replace_references(&mut resolved, &scan.references).await?;
        }
        let starts_context =
            scan.has_compaction || (resolved.has_replaced_items && has_compaction(&resolved.input));
        if let Some(parent) = resolved.parent.as_ref().filter(|_| !starts_context) {
            resolved.replayed = self.replayed(parent)?;
        }
        Ok(resolved)
    }

    async fn load_parent(&self, name: String) -> Result<Arc<StoredTurn>, Failure> {
        let Ok(id) = name.parse::<ResponseId>() else { return Err(Failure::PreviousNotFound(name)) };
        let limit = self.turns.rules.max_chain_depth;
        let load = self.turns.chains.load(&self.project, id, self.started_at, limit);
        match self.presence.or_given_up(load).await.map_err(|_| Failure::ClientGone)?? {
            Some(parent) if parent.depth >= limit => Err(Failure::ContextTooLarge {
                what: "turns",
                limit: limit as usize,
                size: parent.depth as usize,
            }),
            Some(parent) => Ok(parent),
            None if self.turns.running.contains(id) => Err(Failure::PreviousNotCompleted(name)),
            None => Err(Failure::PreviousNotFound(name)),
        }
    }

    /// The turns from the start of the context to the parent.
    fn replayed(&self, parent: &Arc<StoredTurn>) -> Result<Vec<Arc<StoredTurn>>, Failure> {
        let limit = self.turns.rules.max_history_bytes;
        let mut replayed = Vec::with_capacity(parent.depth as usize);
        let mut size = 0;
        let mut next = Some(parent);
        while let Some(turn) = next {
            size += turn.segment.size_bytes();
            replayed.push(Arc::clone(turn));
            next = turn.parent.as_ref().filter(|_| !turn.segment.starts_context());
        }
        if size > limit {
            return Err(Failure::ContextTooLarge { what: "bytes", limit, size });
        }
        replayed.reverse();
        Ok(replayed)
    }

    /// Puts stored items where the input only names them.
    async fn replace_references(
        &self,
        resolved: &mut Resolved,
        references: &[(u32, String)],
    ) -> Result<(), Failure> {
        let unknown = |name: &String| Failure::ItemNotFound(name.clone());
        let ids: Vec<ItemId> = references
            .iter()
            .map(|(_, name)| ItemId::new(name).ok_or_else(|| unknown(name)))
            .collect::<Result<_, _>>()?;
        let found = self.turns.chains.load_items(&self.project, &ids, self.started_at).await?;
        let mut found = references.iter().zip(found).peekable();
        let mut items = Vec::new();
        for (position, range) in (0_u32..).zip(json::elements(&resolved.input).map_while(Result::ok)) {
            let Some(((_, name), item)) = found.next_if(|((at, _), _)| *at == position) else {
                items.push(resolved.input.slice(range));
                continue;
            };
            let item = item.ok_or_else(|| unknown(name))?;
            if item.is_output {
                resolved.referenced.push(position);
            }
            items.push(item.item);
        }
        resolved.input = array(&items).into();
        Ok(())
    }
}

// === impl Resolved ===

impl Resolved {
    /// The input for an account: the history and the turn's own items.
    pub fn upstream_input(&self, replay_ids: ReplayIds) -> UpstreamInput {
        let mut history = Vec::with_capacity(self.replayed.len() * 3);
        for turn in &self.replayed {
            let mut parts = Vec::new();
            turn.segment.parts(replay_ids, &mut parts);
            let is_first = history.is_empty();
            push_turn(&mut history, parts, is_first);
        }
        let resolved = self.has_replaced_items.then(|| self.own_parts(replay_ids));
        UpstreamInput { history, resolved }
    }

    fn own_parts(&self, replay_ids: ReplayIds) -> Vec<Bytes> {
        let mut parts = Vec::new();
        for (position, range) in (0_u32..).zip(json::elements(&self.input).map_while(Result::ok)) {
            if position > 0 {
                parts.push(Bytes::from_static(b","));
            }
            let item = self.input.slice(range);
            let cut = item::id_span(&item)
                .filter(|_| replay_ids == ReplayIds::Drop && self.referenced.contains(&position));
            match cut {
                Some(id) => parts.extend([item.slice(..id.start), item.slice(id.end..)]),
                None => parts.push(item),
            }
        }
        parts
    }
}
