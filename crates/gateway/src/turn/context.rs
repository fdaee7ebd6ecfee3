//! The context that a turn continues: its chain from the newest turn on, without the items that a conversation has deleted.

use std::borrow::Cow;
use std::collections::HashMap;

use antiphon_protocol::id::ResponseId;
use antiphon_protocol::replay::Segment;
use antiphon_store::chain::Turn as StoredTurn;

/// A turn of a chain, as it is replayed.
pub struct Replayed<'a> {
    pub turn: &'a StoredTurn,
    pub segment: Cow<'a, Segment>,
}

/// Walks from a turn to the root of its chain.
pub struct Context<'a> {
    next: Option<&'a StoredTurn>,
    /// Positions of items in turns that are still to come.
    deleted: HashMap<ResponseId, Vec<u32>>,
}

impl<'a> Context<'a> {
    pub fn from(newest: Option<&'a StoredTurn>) -> Self {
        Self { next: newest, deleted: HashMap::new() }
    }
}

impl<'a> Iterator for Context<'a> {
    type Item = Replayed<'a>;

    fn next(&mut self) -> Option<Replayed<'a>> {
        let turn = self.next?;
        self.next = turn.parent.as_deref();
        for location in &turn.deletes {
            self.deleted.entry(location.turn).or_default().push(location.position);
        }
        let segment = match self.deleted.remove(&turn.id) {
            None => Cow::Borrowed(&turn.segment),
            Some(mut positions) => {
                positions.sort_unstable();
                Cow::Owned(turn.segment.without(&positions))
            }
        };
        Some(Replayed { turn, segment })
    }
}
