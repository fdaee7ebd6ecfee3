//! Resolve: from `previous_response_id` or `conversation` to the items that go upstream. References are
//! [`references`](super::references)'.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_errors::quoted;
use antiphon_protocol::id::ResponseId;
use antiphon_protocol::item::Sealed;
use antiphon_protocol::replay::{Omitted, ReplayIds, Summaries};
use antiphon_protocol::request::{UpstreamInput, push_turn};
use antiphon_store::chain::Turn as StoredTurn;
use antiphon_store::{Maker, Status, StoreError};
use bytes::Bytes;

use super::context::{Context, Replayed};
use super::conversation::Joined;
use super::memory::LatestResponse;
use super::references::OwnInput;
use super::trace::Step;
use super::variant::RequestVariant;
use super::{Failure, Turn};
use antiphon_upstream::account::Account;
use antiphon_upstream::pool::Origin;

/// How long a turn waits for a parent that is still running.
const PARENT_PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const PARENT_PAUSE: Duration = Duration::from_millis(50);

/// What a turn continues and what it adds.
pub struct Resolved {
    pub parent: Option<Arc<StoredTurn>>,
    /// The parent, if it can't be loaded any more.
    pub lost_parent: Option<ResponseId>,
    pub joined: Option<Joined>,
    pub own: OwnInput,
    /// Whether the turn's own items contain a compaction, which replaces everything before it.
    starts_context: bool,
    /// Whether they contain reasoning of which upstreams of the Responses API accept only the summary.
    has_unaccepted_reasoning: bool,
}

/// The input for one account.
pub struct AccountInput {
    pub input: UpstreamInput,
    pub reasoning: Reasoning,
}

/// What an account does not get of a chain.
#[derive(Default)]
struct LeftOut {
    omitted: Omitted,
    /// Whether a compaction was replaced by the items that it stands for.
    is_rebuilt: bool,
}

/// Whether the encrypted items of the chain, which only some accounts can read, were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reasoning {
    /// All of them, or there were none.
    Full,
    /// Encrypted reasoning was left out.
    Stripped,
    /// A compaction item was replaced by the items that it stands for.
    Rebuilt,
}

impl Turn {
    /// Loads what the request refers to, and checks the limits on chains.
    pub(super) async fn resolve(&mut self) -> Result<Resolved, Failure> {
        self.trace_step(Step::Resolve);
        self.check_key()?;
        let needs_store = self.facts.create.store || self.facts.create.background;
        if needs_store && !self.turns.chains.is_available() {
            return Err(Failure::StoreUnavailable);
        }
        let (joined, parent) = self.load_history().await?;
        self.progress.depth = parent.as_ref().map_or(1, |parent| parent.depth + 1);
        let own = self.own_input(parent.is_some()).await?;
        let scan = &self.facts.create.scan;
        let starts_context = scan.has_compaction || own.has_replaced(Sealed::Compaction);
        let has_unaccepted_reasoning = scan.has_chat_reasoning
            || own.has_replaced(Sealed::ChatReasoning)
            || own.has_replaced(Sealed::BareReasoning);
        Ok(Resolved { parent, lost_parent: None, joined, own, starts_context, has_unaccepted_reasoning })
    }

    /// The turn with its references as they are, because something that it refers to can't be loaded. Without its parent it can't be
    /// continued: the chain would be shorter than its client believes.
    pub(super) async fn resolve_alone(&mut self) -> Result<Resolved, Failure> {
        self.facts.create.scan.references.clear();
        let history = self.load_history().await;
        if let Err(failure @ (Failure::StoreUnavailable | Failure::Overloaded(_))) = history {
            return Err(failure);
        }
        let named = self.facts.create.previous_response_id.as_deref();
        let lost_parent = named.filter(|_| history.is_err()).and_then(|name| name.parse().ok());
        let (joined, parent) = history.unwrap_or_default();
        let above = parent.as_ref().map_or(u32::from(lost_parent.is_some()), |parent| parent.depth);
        self.progress.depth = above + 1;
        let starts_context = self.facts.create.scan.has_compaction;
        let has_unaccepted_reasoning = self.facts.create.scan.has_chat_reasoning;
        let own = self.own_input(parent.is_some()).await?;
        Ok(Resolved { parent, lost_parent, joined, own, starts_context, has_unaccepted_reasoning })
    }

    /// The conversation, and what the turn continues.
    async fn load_history(&self) -> Result<(Option<Joined>, Option<Arc<StoredTurn>>), Failure> {
        let joined = match &self.facts.create.conversation {
            None => None,
            Some(name) => Some(Box::pin(self.join(name)).await?),
        };
        let head = joined.as_ref().and_then(|joined| joined.conversation().head);
        let parent = match (head, self.facts.create.previous_response_id.clone()) {
            (Some(head), _) => Some(self.load_head(head).await?),
            (None, Some(id)) => Some(self.load_parent(id).await?),
            (None, None) => None,
        };
        Ok((joined, parent))
    }

    async fn load_parent(&self, name: String) -> Result<Arc<StoredTurn>, Failure> {
        let Ok(id) = name.parse::<ResponseId>() else { return Err(Failure::PreviousNotFound(quoted(&name))) };
        let give_up_at = Instant::now() + PARENT_PATIENCE;
        loop {
            match self.try_load_parent(id, &name).await {
                Err(Failure::PreviousNotCompleted(_)) if Instant::now() < give_up_at => {
                    let pause = tokio::time::sleep(PARENT_PAUSE);
                    self.cancellation.or_cancelled(pause).await.map_err(|_| Failure::ClientGone)?;
                }
                loaded => return loaded,
            }
        }
    }

    async fn try_load_parent(&self, id: ResponseId, name: &str) -> Result<Arc<StoredTurn>, Failure> {
        let name = || name.to_owned();
        let limit = self.turns.settings.max_chain_depth;
        let load = async || {
            let (chains, project) = (&self.turns.chains, &self.facts.project);
            let load = async {
                match self.facts.door.run() {
                    // Its parent was there when it was queued, and may be deleted since.
                    Some(_) => chains.load_ancestor(project, id).await,
                    None => chains.load(project, id, self.facts.started_at, limit).await,
                }
            };
            let loaded = self.cancellation.or_cancelled(load).await.map_err(|_| Failure::ClientGone)?;
            loaded.map_err(Failure::from)
        };
        let mut parent = match self.facts.door.lane().map(|lane| lane.find(id)) {
            Some(Some(LatestResponse::InMemory(parent))) if !self.facts.create.store => Some(parent),
            // A stored response must not continue one that is not stored: it could not be replayed later.
            Some(Some(LatestResponse::InMemory(_))) => return Err(Failure::PreviousNotFound(name())),
            Some(None) if !self.facts.create.store => return Err(Failure::PreviousNotFound(name())),
            _ => load().await?,
        };
        if parent.is_none() {
            if self.turns.is_running(&self.facts.project, id).await? {
                return Err(Failure::PreviousNotCompleted(name()));
            }
            // It may have ended in between.
            parent = load().await?;
        }
        within_depth(parent.ok_or_else(|| Failure::PreviousNotFound(name()))?, limit)
    }

    /// Loads the newest turn of a conversation. Of those, any number may be continued: what limits them is the history that is
    /// replayed, and the size of the conversation.
    async fn load_head(&self, head: ResponseId) -> Result<Arc<StoredTurn>, Failure> {
        let load = self.turns.chains.load_ancestor(&self.facts.project, head);
        let loaded = self.cancellation.or_cancelled(load).await.map_err(|_| Failure::ClientGone)??;
        loaded.ok_or_else(|| StoreError::BrokenChain { response: head }.into())
    }
}

fn warn_of_lost_compaction(account: &Account) {
    tracing::warn!(
        account.id = %account.name,
        "the account cannot read the request's compaction item, and nothing is known of what it stands for"
    );
}

fn within_depth(parent: Arc<StoredTurn>, limit: u32) -> Result<Arc<StoredTurn>, Failure> {
    if parent.depth < limit {
        return Ok(parent);
    }
    let size = parent.depth as usize + 1;
    Err(Failure::ContextTooLarge { what: "turns", limit: limit as usize, size })
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

// === impl LeftOut ===

impl LeftOut {
    /// Adds what a turn has that the account cannot read. The first turn of the input has no items before it.
    fn add_unreadable(&mut self, omitted: Omitted, is_first: bool) {
        self.is_rebuilt |= omitted.compactions > 0 || (omitted.compactions_of_earlier > 0 && !is_first);
        self.omitted += omitted;
    }

    fn reasoning(&self) -> Reasoning {
        match self.omitted {
            _ if self.is_rebuilt => Reasoning::Rebuilt,
            omitted if omitted == Omitted::default() => Reasoning::Full,
            _ => Reasoning::Stripped,
        }
    }
}

// === impl Resolved ===

impl Resolved {
    /// The input for an account: the chain, root first, and the turn's own items. The accounts of a turn's boundary can read its
    /// encrypted items, and every account those that the client sent, but for those that this one has refused.
    pub fn input_for(
        &self,
        account: &Account,
        summaries: Summaries,
        variant: &RequestVariant<'_>,
        max_bytes: usize,
    ) -> Result<AccountInput, Failure> {
        let replay_ids = account.settings.replay_ids;
        let can_read = variant.send_encrypted;
        // A turn without an account contains only what the client sent.
        let reads =
            |turn: &StoredTurn| can_read && (turn.boundary.is_empty() || turn.boundary == account.boundary());
        let replayed = self.replayed(can_read, reads, max_bytes)?;
        let mut history = Vec::with_capacity(replayed.len() * 3);
        let mut left_out = LeftOut::default();
        for Replayed { turn, segment } in replayed {
            let mut parts = Vec::new();
            let is_first = history.is_empty();
            match (reads(turn), summaries) {
                (true, Summaries::AsItems) => segment.parts(replay_ids, &mut parts),
                (true, Summaries::AsMessages) => {
                    left_out.omitted += segment.accepted_parts(replay_ids, &mut parts);
                }
                (false, _) => {
                    let omitted = segment.readable_parts(replay_ids, summaries, &mut parts);
                    left_out.add_unreadable(omitted, is_first);
                }
            }
            push_turn(&mut history, parts, is_first);
        }
        let resolved = self.own_parts(account, summaries, variant, history.is_empty(), &mut left_out)?;
        Ok(AccountInput { input: UpstreamInput { history, resolved }, reasoning: left_out.reasoning() })
    }

    /// The turn's own items, unless they go upstream as the client sent them.
    fn own_parts(
        &self,
        account: &Account,
        summaries: Summaries,
        variant: &RequestVariant<'_>,
        is_first: bool,
        left_out: &mut LeftOut,
    ) -> Result<Option<Vec<Bytes>>, Failure> {
        let replay_ids = account.settings.replay_ids;
        let mut parts = Vec::new();
        if !variant.send_encrypted {
            let own = self.own.without_ids().segment().map_err(|_| Failure::Internal)?;
            let omitted = own.readable_parts(replay_ids, summaries, &mut parts);
            if self.starts_context && self.parent.is_none() {
                warn_of_lost_compaction(account);
                left_out.omitted += omitted;
            } else {
                left_out.add_unreadable(omitted, is_first);
            }
            return Ok(Some(parts));
        }
        if summaries == Summaries::AsItems {
            return Ok(self.own_as_sent(replay_ids));
        }
        let readable = self.own.readable_at(account.boundary(), &variant.left_out());
        let Some((own, foreign)) = readable.map_err(|_| Failure::Internal)? else {
            return self.accepted_own(replay_ids, left_out);
        };
        left_out.omitted += own.accepted_parts(replay_ids, &mut parts);
        left_out.omitted += foreign;
        if foreign.compactions > 0 {
            warn_of_lost_compaction(account);
        }
        Ok(Some(parts))
    }

    /// The turn's own items, unless they go upstream as the client sent them.
    fn own_as_sent(&self, replay_ids: ReplayIds) -> Option<Vec<Bytes>> {
        self.own.has_replaced_items().then(|| self.own.parts(replay_ids))
    }

    /// Like [`own_as_sent`](Self::own_as_sent), without what no upstream of the Responses API accepts.
    fn accepted_own(
        &self,
        replay_ids: ReplayIds,
        left_out: &mut LeftOut,
    ) -> Result<Option<Vec<Bytes>>, Failure> {
        if !self.has_unaccepted_reasoning {
            return Ok(self.own_as_sent(replay_ids));
        }
        let own = self.own.segment().map_err(|_| Failure::Internal)?;
        let mut parts = Vec::new();
        left_out.omitted += own.accepted_parts(replay_ids, &mut parts);
        Ok(Some(parts))
    }

    /// Whether the chain has the items for which the turn's own compaction stands.
    pub fn can_rebuild_context(&self) -> bool {
        self.starts_context && self.parent.is_some()
    }

    /// The turns of the chain whose items an account gets that can read them all, newest first.
    pub fn history(&self) -> impl Iterator<Item = Replayed<'_>> {
        let mut is_over = self.starts_context;
        Context::from(self.parent.as_deref()).take_while(move |replayed| {
            let is_before = is_over;
            is_over |= replayed.segment.starts_context();
            !is_before
        })
    }

    /// The newest turn of the chain that an account has served.
    pub fn served_parent(&self) -> Option<&StoredTurn> {
        let mut turns = std::iter::successors(self.parent.as_deref(), |turn| turn.parent.as_deref());
        turns.find(|turn| !turn.account.is_empty())
    }

    /// Where the turn belongs: to the account of the chain, or else of the newest item that it references.
    pub fn origin(&self) -> Option<Origin<'_>> {
        let of_parent = self
            .served_parent()
            .map(|parent| Origin { account: &parent.account, boundary: &parent.boundary });
        let of_item = || self.own.maker().map(|Maker { account, boundary }| Origin { account, boundary });
        of_parent.or_else(of_item)
    }

    /// The id of the parent at an upstream that stores responses, if it stored this one.
    pub fn native_parent(&self, account: &Account) -> Option<&str> {
        let is_kept = self.parent.as_deref().is_some_and(|parent| account.is_native() && parent.is_stored());
        self.upstream_parent(account).filter(|_| is_kept)
    }

    /// The upstream's own id of the parent, if this account served it and it can be continued.
    pub fn upstream_parent(&self, account: &Account) -> Option<&str> {
        let parent = self.parent.as_deref().filter(|_| !self.starts_context)?;
        let is_whole = matches!(parent.status, Status::Completed | Status::Incomplete);
        parent.upstream_id.as_deref().filter(|_| is_whole && parent.account == account.name)
    }

    /// The turn's own items, for an upstream that has the chain.
    pub fn own_input(&self, replay_ids: ReplayIds) -> Result<AccountInput, Failure> {
        let mut left_out = LeftOut::default();
        let resolved = self.accepted_own(replay_ids, &mut left_out)?;
        let input = UpstreamInput { history: Vec::new(), resolved };
        Ok(AccountInput { input, reasoning: left_out.reasoning() })
    }

    /// The turns from the start of the context to the parent, root first.
    fn replayed(
        &self,
        can_read: bool,
        reads: impl Fn(&StoredTurn) -> bool,
        max_bytes: usize,
    ) -> Result<Vec<Replayed<'_>>, Failure> {
        let newest = self.parent.as_deref().filter(|_| !(self.starts_context && can_read));
        let mut replayed = Vec::with_capacity(newest.map_or(0, |parent| parent.depth as usize));
        let mut size = 0;
        for next in Context::from(newest) {
            size += next.segment.size_bytes();
            let is_start = reads(next.turn) && next.segment.starts_context();
            replayed.push(next);
            if is_start {
                break;
            }
        }
        if size > max_bytes {
            return Err(match self.joined {
                Some(_) => Failure::ConversationTooLarge { limit: max_bytes, size },
                None => Failure::ContextTooLarge { what: "bytes", limit: max_bytes, size },
            });
        }
        replayed.reverse();
        Ok(replayed)
    }
}
