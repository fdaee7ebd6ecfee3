//! Record: the turn becomes durable before its client sees the end.

use std::collections::BTreeMap;

use antiphon_protocol::json::{self, Object};
use antiphon_protocol::request::{Input, item_ids};
use antiphon_protocol::response::{Parts, is_empty_array, with_output, write_array};
use antiphon_protocol::usage::Usage;
use antiphon_runtime::offload::offload_if_long;
use antiphon_store::chain::Turn as ChainTurn;
use antiphon_store::{Appended, Maker, Record, Status, StoredResponse, StoredTurn};
use bytes::Bytes;

use super::conversation::appended_items;
use super::memory::LatestResponse;
use super::resolve::Resolved;
use super::trace::Step;
use super::{Failure, Turn};
use antiphon_upstream::pool::Verdict;

/// Finished output items, by their place in the output and then by their arrival. An upstream may send any number in any order.
pub type Items = BTreeMap<(u64, usize), Bytes>;

/// A finished response.
#[derive(Debug)]
pub struct Finished {
    pub status: Status,
    /// The response object as the client sees it.
    pub response: Bytes,
    /// The same without its output, as it is stored, if that is at hand.
    pub body: Option<Bytes>,
    /// The output items to store, a JSON array.
    pub output: Bytes,
    pub upstream_id: Option<String>,
    pub usage: Usage,
}

impl Finished {
    /// What the end of the response says about its account.
    pub fn verdict(&self) -> Verdict {
        self.error().map_or(Verdict::Served, |(code, message)| Verdict::from_event(&code, &message))
    }

    /// The code and the message of a response that failed.
    pub fn error(&self) -> Option<(String, String)> {
        if self.status != Status::Failed {
            return None;
        }
        let error = json::member(&self.response, "error").unwrap_or_default();
        let text = |name| json::string_member(error, name).unwrap_or_default().into_owned();
        Some((text("code"), text("message")))
    }

    /// From a response as it was rewritten, and the original of the upstream. `implied` stands for the status and `items` for
    /// the output of an upstream that leaves them out.
    pub fn from_upstream(
        response: Bytes,
        original: &Object<'_>,
        items: &Items,
        implied: Option<Status>,
    ) -> Self {
        let parts = Parts::of(original);
        let status = parts.status.as_deref().and_then(|status| status.parse().ok());
        let has_error = || original.get("error").is_some_and(|error| error.first() == Some(&b'{'));
        let status = status
            .or(implied)
            .unwrap_or_else(|| if has_error() { Status::Failed } else { Status::Completed });
        let output = match parts.output.filter(|output| items.is_empty() || !is_empty_array(output)) {
            Some(output) => Bytes::copy_from_slice(output),
            None => output_of(items),
        };
        Self { status, response, body: None, output, upstream_id: parts.id, usage: parts.usage }
    }
}

/// An array of finished items, without those that are no valid JSON.
pub fn output_of(items: &Items) -> Bytes {
    let size_bytes = items.values().map(|item| item.len() + 1).sum::<usize>() + 1;
    let mut output = Vec::with_capacity(size_bytes);
    write_array(&mut output, items.values().filter(|item| json::validate(item).is_ok()));
    output.into()
}

impl Turn {
    /// Stores the turn with its row in the request log, if the client asked for that. Otherwise only its lane remembers it, if
    /// it has one. `served_by` is `None` for a turn that generated nothing.
    pub(super) async fn record(
        &mut self,
        finished: Finished,
        resolved: &Resolved,
        served_by: Option<Maker>,
    ) -> Result<(), Failure> {
        self.trace_step(Step::Record);
        let is_continuable = matches!(finished.status, Status::Completed | Status::Incomplete);
        let parent = resolved.parent.clone();
        if let Some(run) = self.facts.door.run().cloned() {
            return self.record_background(&run, finished, resolved, served_by).await;
        }
        if !self.facts.create.store {
            if let Some(lane) = self.facts.door.lane().filter(|_| is_continuable) {
                let turn = self.to_turn(resolved, &finished, served_by);
                let turn = ChainTurn::unstored(&turn, parent, lane.memory.budget()).await?;
                lane.remember(turn.map(LatestResponse::InMemory));
            }
            return Ok(());
        }
        let record = self.to_record(&finished, resolved, served_by).await?;
        match self.turns.chains.record(record, parent).await? {
            Appended::Done | Appended::Deleted => {}
            Appended::Conflict => return Err(Failure::ConversationLocked),
            Appended::NoParent => return Err(self.parent_is_gone()),
        }
        if let Some(joined) = resolved.joined.as_ref().filter(|_| is_continuable) {
            joined.end();
        }
        self.progress.is_recorded = true;
        self.running = None;
        if let Some(lane) = self.facts.door.lane().filter(|_| is_continuable) {
            lane.remember(Some(LatestResponse::Stored(self.facts.id)));
        }
        Ok(())
    }

    /// The parent was in memory, and the database has lost it.
    pub(super) fn parent_is_gone(&self) -> Failure {
        Failure::PreviousNotFound(self.facts.create.previous_response_id.clone().unwrap_or_default())
    }

    fn to_turn(&self, resolved: &Resolved, finished: &Finished, served_by: Option<Maker>) -> StoredTurn {
        let parent = resolved.parent.as_deref();
        // A turn without an account inherits that of its parent.
        let (account, boundary) = match (served_by, parent) {
            (Some(Maker { account, boundary }), _) => (account, boundary),
            (None, Some(parent)) => (parent.account.clone(), parent.boundary.clone()),
            (None, None) => Default::default(),
        };
        StoredTurn {
            id: self.facts.id,
            parent: parent.map(|parent| parent.id).or(resolved.lost_parent),
            depth: self.progress.depth,
            status: finished.status,
            account,
            boundary,
            upstream_id: finished.upstream_id.clone(),
            model: self.facts.create.model.clone(),
            expires_at: self.turns.settings.retention.map(|retention| self.facts.started_at.plus(retention)),
            input: resolved.own.array(),
            referenced: resolved.own.referenced(),
            output: finished.output.clone(),
            deletes: None,
        }
    }

    pub(super) async fn to_record(
        &self,
        finished: &Finished,
        resolved: &Resolved,
        served_by: Option<Maker>,
    ) -> Result<Record, Failure> {
        let body = match &finished.body {
            Some(body) => body.clone(),
            None => with_output(&finished.response, b"[]").map_err(|_| Failure::Internal)?.into(),
        };
        let turn = self.to_turn(resolved, finished, served_by);
        let has_items = matches!(self.facts.create.input, Input::Items(_));
        let input_items = u32::try_from(self.facts.create.scan.items).unwrap_or(u32::MAX);
        let is_continuable = matches!(finished.status, Status::Completed | Status::Incomplete);
        let joined = resolved.joined.as_ref().filter(|_| is_continuable);
        let (id, is_joined) = (turn.id, joined.is_some());
        let (input, output) = (turn.input.clone(), turn.output.clone());
        let unindexed = resolved.own.unindexed();
        let find_items = move || {
            let mut items = if has_items { item_ids(&input, 0) } else { Vec::new() };
            items.retain(|(_, position)| unindexed.binary_search(position).is_err());
            items.extend(item_ids(&output, input_items));
            let appended = is_joined.then(|| appended_items(id, &input, &output));
            (items, appended.unwrap_or_default())
        };
        let (items, appended) =
            offload_if_long(turn.items_bytes(), find_items).await.map_err(|_| Failure::Internal)?;
        let append = joined.and_then(|joined| joined.append(appended, self.turns.env.clock.now()));
        let response = StoredResponse { turn, created_at: self.facts.started_at, body };
        Ok(Record {
            project: self.facts.project.clone(),
            response,
            items,
            log: self.row(),
            settlement: self.settlement(),
            append,
            needs_parent: resolved.parent.is_some(),
        })
    }
}
