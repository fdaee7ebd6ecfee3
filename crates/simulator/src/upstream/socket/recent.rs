//! The memory of a socket: the newest response of each of its lanes, stored or not.

use super::frame::Lane;
use crate::upstream::request::Items;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Recent {
    lanes: HashMap<Lane, Remembered>,
}

#[derive(Debug)]
struct Remembered {
    id: String,
    /// Everything up to the end of the response.
    items: Arc<Items>,
}

impl Recent {
    /// A lane may continue the response of another lane.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Items>> {
        self.lanes.values().find(|remembered| remembered.id == id).map(|found| Arc::clone(&found.items))
    }

    pub(super) fn remember(&mut self, lane: &Lane, id: String, items: Items) {
        self.lanes.insert(lane.clone(), Remembered { id, items: Arc::new(items) });
    }

    /// Forgets a response if it belongs to this lane: a failed fork leaves the other lane's response alone.
    pub(super) fn evict(&mut self, lane: &Lane, id: &str) {
        if self.lanes.get(lane).is_some_and(|remembered| remembered.id == id) {
            self.lanes.remove(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_forgets_only_its_own_response() {
        let mut recent = Recent::default();
        let (main, fork) = (None, Some(String::from("fork")));
        recent.remember(&main, String::from("resp_1"), Items::new());
        recent.evict(&fork, "resp_1");
        assert!(recent.find("resp_1").is_some());
        recent.evict(&main, "resp_0");
        assert!(recent.find("resp_1").is_some());
        recent.evict(&main, "resp_1");
        assert!(recent.find("resp_1").is_none());
    }

    #[test]
    fn only_the_newest_response_of_a_lane_is_remembered() {
        let mut recent = Recent::default();
        recent.remember(&None, String::from("resp_1"), Items::new());
        recent.remember(&None, String::from("resp_2"), Items::new());
        assert!(recent.find("resp_1").is_none());
        assert!(recent.find("resp_2").is_some());
    }
}
