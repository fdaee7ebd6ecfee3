//! The chain of a response, from its root to a leaf, with its branches.

use std::collections::{BTreeMap, HashMap};

use antiphon_access::query;
use antiphon_protocol::id::{ConversationId, ProjectId, ResponseId};
use antiphon_protocol::json;
use antiphon_runtime::rfc3339;
use antiphon_store::{ChainLink, ChainQuery, StoredTurn, TurnSummary};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::log::{AttemptView, KeyNames, LoggedTurn};
use super::responses::parse_response_id;
use super::{InvalidRequest, OperationError, Operations};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 100;
/// How long a chain can be that is shown as a whole.
const MAX_TURNS: u32 = 10_000;
/// A page ends with the turn whose items reach this.
const MAX_PAGE_BYTES: u64 = 8 * 1024 * 1024;
/// How many branches of a page's turns are listed.
const MAX_BRANCHES: u32 = 1_000;
/// How many types of items are told apart in a turn.
const MAX_TYPES: usize = 20;

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChainParameters {
    /// Maximum number of turns.
    #[serde(default, deserialize_with = "query::limit::<_, MAX_LIMIT>")]
    #[param(minimum = 1, maximum = 100, default = 50)]
    pub limit: Option<u32>,
    /// Cursor: the `id` of the last turn of the previous page.
    pub after: Option<String>,
}

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConversationTurnParameters {
    /// Name of the project.
    pub project: String,
    /// Maximum number of turns.
    #[serde(default, deserialize_with = "query::limit::<_, MAX_LIMIT>")]
    #[param(minimum = 1, maximum = 100, default = 50)]
    pub limit: Option<u32>,
    /// Cursor: the `id` of the last turn of the previous page.
    pub after: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Chain {
    pub project: String,
    /// How many turns there are from the root to the leaf.
    pub length: usize,
    /// From the root towards the leaf: through the response that was asked for, and from there on through the newest branches.
    pub turns: Vec<ChainTurn>,
    pub has_more: bool,
    /// What the page before this one comes after; empty for the root's.
    #[serde(skip)]
    pub earlier: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ChainTurn {
    pub id: String,
    pub depth: u32,
    /// `response`; `posted` for items that were posted to a conversation, or deleted from one.
    pub kind: &'static str,
    pub status: String,
    pub model: String,
    pub account: String,
    pub created_at: String,
    pub deleted_at: Option<String>,
    /// The number of input items, by type; `null` if there is too much of them.
    pub input_items: Option<BTreeMap<String, u64>>,
    pub output_items: Option<BTreeMap<String, u64>>,
    pub input_bytes: u64,
    pub output_bytes: u64,
    /// The size of the items of all turns before: what is replayed to continue them.
    pub replay_bytes: u64,
    /// The turn in the request log, with its tokens, its account and whether encrypted reasoning was sent.
    pub turn: Option<LoggedTurn>,
    pub attempts: Vec<AttemptView>,
    /// Other responses that continue this one: the first of another branch each.
    pub branches: Vec<String>,
}

/// Where a page of a chain begins.
enum Start<'a> {
    Root,
    /// With the turn that follows this one.
    After(&'a str),
    /// Where the response that was asked for is on the page, with turns before it.
    Around,
}

/// The turns from the root to the leaf, in this order.
struct Path {
    project: ProjectId,
    links: Vec<ChainLink>,
}

// === impl Operations ===

impl Operations {
    /// A page of the chain of a response.
    pub async fn chain(&self, id: &str, parameters: &ChainParameters) -> Result<Chain, OperationError> {
        let id = parse_response_id(id)?;
        let project = self.project_of(id).await?;
        self.chain_page(project, id, parameters.limit, parameters.start()).await
    }

    /// The page of its chain that a response is on.
    pub async fn chain_around(&self, id: &str) -> Result<Chain, OperationError> {
        let id = parse_response_id(id)?;
        let project = self.project_of(id).await?;
        self.chain_page(project, id, None, Start::Around).await
    }

    async fn project_of(&self, id: ResponseId) -> Result<ProjectId, OperationError> {
        let not_found = || OperationError::ResponseNotFound(id.to_string());
        self.store.find_project(id).await?.ok_or_else(not_found)
    }

    /// A page of the turns of a conversation.
    pub async fn conversation_turns(
        &self,
        id: &str,
        parameters: &ConversationTurnParameters,
    ) -> Result<Chain, OperationError> {
        let ConversationTurnParameters { project, limit, after } = parameters;
        let parameters = ChainParameters { limit: *limit, after: after.clone() };
        let not_found = || OperationError::ConversationNotFound(id.chars().take(100).collect());
        let conversation: ConversationId = id.parse().map_err(|_| not_found())?;
        let project = ProjectId::new(project);
        let found = self.store.load_conversation(&project, conversation).await?.ok_or_else(not_found)?;
        match found.head {
            Some(head) => self.chain_page(project, head, parameters.limit, parameters.start()).await,
            None => Ok(Chain {
                project: project.to_string(),
                length: 0,
                turns: Vec::new(),
                has_more: false,
                earlier: None,
            }),
        }
    }

    async fn chain_page(
        &self,
        project: ProjectId,
        id: ResponseId,
        limit: Option<u32>,
        start: Start<'_>,
    ) -> Result<Chain, OperationError> {
        let permit = self.report_permit().await?;
        let mut links = self.store.list_links(&project, id, MAX_TURNS).await?;
        links.reverse();
        let below = MAX_TURNS.saturating_sub(u32::try_from(links.len()).unwrap_or(MAX_TURNS));
        links.extend(self.store.list_descendants(&project, id, below).await?);
        let path = Path { project, links };
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        let start = match start {
            Start::Root => 0,
            Start::After(turn) => path.position(turn)? + 1,
            Start::Around => path.start_around(id, limit),
        };
        let end = path.end_of_page(start, limit);
        let turns = self.turns_of(&path, start, end).await?;
        drop(permit);
        let (length, has_more) = (path.links.len(), end < path.links.len());
        let earlier = path.earlier(start, limit);
        Ok(Chain { project: path.project.to_string(), length, turns, has_more, earlier })
    }

    async fn turns_of(
        &self,
        path: &Path,
        start: usize,
        end: usize,
    ) -> Result<Vec<ChainTurn>, OperationError> {
        let Some(last) = path.links[start..end].last() else { return Ok(Vec::new()) };
        let (project, from) = (&path.project, last.id);
        let count = u32::try_from(end - start).unwrap_or(u32::MAX);
        let bytes: u64 = path.links[start..end].iter().map(|link| link.bytes).sum();
        let summaries = self.store.list_turns(project, from, count).await?;
        let children = self.store.list_children(project, from, count, MAX_BRANCHES).await?;
        let query = ChainQuery { from, visible_at: None, max_turns: count };
        // A page of one turn may be too large.
        let items = if bytes > MAX_PAGE_BYTES && count == 1 {
            Vec::new()
        } else {
            self.store.load_chain(project, query).await?
        };
        let items: HashMap<ResponseId, &StoredTurn> = items.iter().map(|turn| (turn.id, turn)).collect();
        let names = self.key_names();
        let mut replay_bytes: u64 = path.links[..start].iter().map(|link| link.bytes).sum();
        let mut turns = Vec::with_capacity(summaries.len());
        for summary in summaries.iter().rev() {
            let next = path.next(summary.id);
            let branches =
                children.iter().filter(|(parent, child)| *parent == summary.id && Some(*child) != next);
            turns.push(ChainTurn {
                replay_bytes,
                branches: branches.map(|(_, child)| child.to_string()).collect(),
                ..ChainTurn::new(summary, items.get(&summary.id).copied(), &names)
            });
            replay_bytes += summary.input_bytes + summary.output_bytes;
        }
        Ok(turns)
    }
}

// === impl ChainParameters ===

impl ChainParameters {
    fn start(&self) -> Start<'_> {
        self.after.as_deref().filter(|after| !after.is_empty()).map_or(Start::Root, Start::After)
    }
}

// === impl Path ===

impl Path {
    fn position(&self, id: &str) -> Result<usize, InvalidRequest> {
        let invalid = || InvalidRequest::value("after", "the chain has no such turn");
        let id: ResponseId = id.parse().map_err(|_| invalid())?;
        self.links.iter().position(|link| link.id == id).ok_or_else(invalid)
    }

    /// The first page if the turn is on it, else one with half a page before the turn.
    fn start_around(&self, id: ResponseId, limit: u32) -> usize {
        let Some(position) = self.links.iter().position(|link| link.id == id) else { return 0 };
        let limit = limit as usize;
        let first = if position < limit { 0 } else { position - limit / 2 };
        let mut bytes = self.links[position].bytes;
        let before = self.links[first..position].iter().rev().take_while(|link| {
            bytes += link.bytes;
            bytes <= MAX_PAGE_BYTES
        });
        position - before.count()
    }

    /// What the page before comes after; empty if it begins with the root, `None` if there is none.
    fn earlier(&self, start: usize, limit: u32) -> Option<String> {
        let first = start.saturating_sub(limit as usize);
        let before = first.checked_sub(1).map(|last| self.links[last].id.to_string());
        (start > 0).then(|| before.unwrap_or_default())
    }

    fn end_of_page(&self, start: usize, limit: u32) -> usize {
        let mut bytes = 0;
        let mut end = start;
        for link in self.links.iter().skip(start).take(limit as usize) {
            bytes += link.bytes;
            if end > start && bytes > MAX_PAGE_BYTES {
                break;
            }
            end += 1;
        }
        end
    }

    fn next(&self, id: ResponseId) -> Option<ResponseId> {
        let position = self.links.iter().position(|link| link.id == id)?;
        self.links.get(position + 1).map(|link| link.id)
    }
}

// === impl ChainTurn ===

impl ChainTurn {
    fn new(summary: &TurnSummary, items: Option<&StoredTurn>, names: &KeyNames) -> Self {
        Self {
            id: summary.id.to_string(),
            depth: summary.depth,
            kind: if summary.is_posted { "posted" } else { "response" },
            status: summary.status.as_str().to_owned(),
            model: summary.model.clone(),
            account: summary.account.clone(),
            created_at: rfc3339(summary.created_at),
            deleted_at: summary.deleted_at.map(rfc3339),
            input_items: items.map(|turn| count_types(&turn.input)),
            output_items: items.map(|turn| count_types(&turn.output)),
            input_bytes: summary.input_bytes,
            output_bytes: summary.output_bytes,
            replay_bytes: 0,
            turn: summary.log.as_ref().map(|row| LoggedTurn::new(row, names)),
            attempts: summary.log.as_ref().map(AttemptView::list).unwrap_or_default(),
            branches: Vec::new(),
        }
    }
}

/// Items by type. An item without a type is a message.
fn count_types(array: &[u8]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for range in json::elements(array).map_while(Result::ok) {
        let kind = json::string_member(&array[range], "type");
        let mut name: String = kind.as_deref().unwrap_or("message").chars().take(64).collect();
        if counts.len() >= MAX_TYPES && !counts.contains_key(&name) {
            "other".clone_into(&mut name);
        }
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of turns of these sizes.
    fn path(sizes: &[u64]) -> Path {
        let link = |(index, bytes): (usize, &u64)| ChainLink { id: id(index), bytes: *bytes };
        Path { project: ProjectId::new("team"), links: sizes.iter().enumerate().map(link).collect() }
    }

    fn id(index: usize) -> ResponseId {
        format!("resp_{index:032x}").parse().unwrap()
    }

    #[test]
    fn a_turn_is_on_its_page_even_if_those_before_it_are_large() {
        let path = path(&[[0; 30].as_slice(), &[MAX_PAGE_BYTES; 3], &[0; 40]].concat());
        for index in 0..path.links.len() {
            let start = path.start_around(id(index), 10);
            assert!((start..path.end_of_page(start, 10)).contains(&index), "{index}: from {start}");
        }
        let start = path.start_around(id(32), 10);
        assert_eq!((start, path.end_of_page(start, 10)), (32, 42), "with a large turn before");
        assert_eq!(path.start_around(id(33), 10), 32);
    }
}
