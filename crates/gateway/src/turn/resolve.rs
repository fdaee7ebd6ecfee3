//! Resolve: from `previous_response_id` to the items that go upstream. References are [`references`](super::references)'.

use std::sync::Arc;

use antiphon_protocol::id::ResponseId;
use antiphon_protocol::replay::{Omitted, ReplayIds, Segment};
use antiphon_protocol::request::{UpstreamInput, push_turn};
use antiphon_store::Status;
use antiphon_store::chain::Turn as StoredTurn;

use super::memory::Remembered;
use super::references::OwnInput;
use super::{Failure, Turn, quoted};
use antiphon_upstream::account::Account;

/// What a turn continues, and what it adds.
pub struct Resolved {
    pub parent: Option<Arc<StoredTurn>>,
    pub own: OwnInput,
    /// Whether the turn's own items stand for everything before them.
    starts_context: bool,
}

/// The input as one account gets it.
pub struct Context {
    pub input: UpstreamInput,
    pub reasoning: Reasoning,
}

/// What became of the items that only some accounts can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reasoning {
    /// They are there, or there were none.
    Full,
    /// Encrypted reasoning was left out.
    Stripped,
    /// The items that a compaction item stood for are there in its place.
    Rebuilt,
}

impl Turn {
    /// Loads what the request names, and holds it against the limits.
    pub(super) async fn resolve(&mut self) -> Result<Resolved, Failure> {
        self.check_key()?;
        if let Some(id) = &self.facts.create.conversation {
            return Err(Failure::ConversationNotFound(quoted(id)));
        }
        if self.facts.create.store && !self.turns.chains.is_available() {
            return Err(Failure::StoreUnavailable);
        }
        let parent = match self.facts.create.previous_response_id.clone() {
            None => None,
            Some(id) => Some(self.load_parent(id).await?),
        };
        self.progress.depth = parent.as_ref().map_or(1, |parent| parent.depth + 1);
        let own = self.own_input().await?;
        let starts_context = self.facts.create.scan.has_compaction || own.has_replaced_compaction();
        Ok(Resolved { parent, own, starts_context })
    }

    async fn load_parent(&self, name: String) -> Result<Arc<StoredTurn>, Failure> {
        let Ok(id) = name.parse::<ResponseId>() else { return Err(Failure::PreviousNotFound(quoted(&name))) };
        let limit = self.turns.rules.max_chain_depth;
        let parent = match self.facts.door.lane().map(|lane| lane.find(id)) {
            Some(Some(Remembered::Here(parent))) if !self.facts.create.store => Some(parent),
            // A stored response never stands on one that isn't: it could not be replayed later.
            Some(Some(Remembered::Here(_))) => return Err(Failure::PreviousNotFound(name)),
            Some(None) if !self.facts.create.store => return Err(Failure::PreviousNotFound(name)),
            _ => {
                let load = self.turns.chains.load(&self.facts.project, id, self.facts.started_at, limit);
                self.presence.or_given_up(load).await.map_err(|_| Failure::ClientGone)??
            }
        };
        match parent {
            Some(parent) if parent.depth >= limit => Err(Failure::ContextTooLarge {
                what: "turns",
                limit: limit as usize,
                size: parent.depth as usize,
            }),
            Some(parent) => Ok(parent),
            None if self.turns.running.contains(&self.facts.project, id) => {
                Err(Failure::PreviousNotCompleted(name))
            }
            None => Err(Failure::PreviousNotFound(name)),
        }
    }
}

// === impl Reasoning ===

impl Reasoning {
    pub const ALL: [Self; 3] = [Self::Full, Self::Stripped, Self::Rebuilt];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Stripped => "stripped",
            Self::Rebuilt => "rebuilt",
        }
    }
}

// === impl Resolved ===

impl Resolved {
    /// The input for an account: the history, root first, and the turn's own items. Each turn of the history can be read
    /// by the accounts of its boundary, and what the client sent by every account, unless `can_read` says that this one
    /// can't.
    pub fn context(&self, account: &Account, can_read: bool, max_bytes: usize) -> Result<Context, Failure> {
        let replay_ids = account.settings.replay_ids;
        // A turn that no account has served holds only what the client sent.
        let reads = |turn: &StoredTurn| {
            can_read && (turn.boundary.is_empty() || turn.boundary == account.settings.boundary)
        };
        let replayed = self.replayed(can_read, reads, max_bytes)?;
        let mut history = Vec::with_capacity(replayed.len() * 3);
        let mut omitted = Omitted::default();
        let mut is_rebuilt = false;
        for turn in replayed {
            let mut parts = Vec::new();
            let is_first = history.is_empty();
            if reads(turn) {
                turn.segment.parts(replay_ids, &mut parts);
            } else {
                let of_turn = turn.segment.readable_parts(replay_ids, &mut parts);
                is_rebuilt |= of_turn.compactions > 0 || (of_turn.leading_compactions > 0 && !is_first);
                omitted += of_turn;
            }
            push_turn(&mut history, parts, is_first);
        }
        let resolved = if can_read {
            self.own_input(replay_ids).resolved
        } else {
            let own = Segment::build(&self.own.array(), &self.own.referenced(), b"[]")
                .map_err(|_| Failure::Internal)?;
            let mut parts = Vec::new();
            let of_own = own.readable_parts(replay_ids, &mut parts);
            is_rebuilt |= of_own.compactions > 0 || (of_own.leading_compactions > 0 && !history.is_empty());
            omitted += of_own;
            Some(parts)
        };
        let reasoning = match omitted {
            _ if is_rebuilt => Reasoning::Rebuilt,
            omitted if omitted == Omitted::default() => Reasoning::Full,
            _ => Reasoning::Stripped,
        };
        Ok(Context { input: UpstreamInput { history, resolved }, reasoning })
    }

    /// The items of the turns that are replayed to an account that can read all of them, newest first.
    pub fn history(&self) -> impl Iterator<Item = &[u8]> {
        let mut next = self.parent.as_deref().filter(|_| !self.starts_context);
        std::iter::from_fn(move || {
            let turn = next?;
            next = turn.parent.as_deref().filter(|_| !turn.segment.starts_context());
            Some(turn.segment.items())
        })
    }

    /// The id of the parent for an upstream that keeps responses, if it was to keep this one.
    pub fn native_parent(&self, account: &Account) -> Option<&str> {
        let is_kept = self.parent.as_deref().is_some_and(|parent| account.is_native() && parent.is_stored());
        self.upstream_parent(account).filter(|_| is_kept)
    }

    /// The id by which the account's own upstream knows the parent, if that is where it was served and can be continued.
    pub fn upstream_parent(&self, account: &Account) -> Option<&str> {
        let parent = self.parent.as_deref().filter(|_| !self.starts_context)?;
        let is_whole = matches!(parent.status, Status::Completed | Status::Incomplete);
        parent.upstream_id.as_deref().filter(|_| is_whole && parent.account == account.name)
    }

    /// The turn's own items, for an upstream that has the history.
    pub fn own_input(&self, replay_ids: ReplayIds) -> UpstreamInput {
        let resolved = self.own.has_replaced_items().then(|| self.own.parts(replay_ids));
        UpstreamInput { history: Vec::new(), resolved }
    }

    /// The turns from the start of the context to the parent, root first.
    fn replayed(
        &self,
        can_read: bool,
        reads: impl Fn(&StoredTurn) -> bool,
        max_bytes: usize,
    ) -> Result<Vec<&StoredTurn>, Failure> {
        let mut next = self.parent.as_deref().filter(|_| !(self.starts_context && can_read));
        let mut replayed = Vec::with_capacity(next.map_or(0, |parent| parent.depth as usize));
        let mut size = 0;
        while let Some(turn) = next {
            size += turn.segment.size_bytes();
            replayed.push(turn);
            next = turn.parent.as_deref().filter(|_| !(reads(turn) && turn.segment.starts_context()));
        }
        if size > max_bytes {
            return Err(Failure::ContextTooLarge { what: "bytes", limit: max_bytes, size });
        }
        replayed.reverse();
        Ok(replayed)
    }
}
