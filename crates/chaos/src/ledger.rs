//! What clients were told, and how their turns went.

use std::collections::BTreeMap;
use std::sync::Mutex;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::door::Door;
use crate::history::History;

/// Chains do not get longer than this.
const MAX_DEPTH: u32 = 30;

/// A response that was acknowledged.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub id: String,
    pub parent: Option<usize>,
    pub project: usize,
    /// The history that it is the reply to.
    pub history: History,
    pub depth: u32,
}

/// The turns of one door.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub acknowledged: u64,
    pub retried: u64,
    pub aborted: u64,
    pub cut: u64,
    pub refused: BTreeMap<String, u64>,
}

/// All acknowledged responses, in the order in which they were.
#[derive(Default)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    acknowledged: Vec<Acknowledged>,
    is_continued: Vec<bool>,
    by_project: BTreeMap<usize, Vec<usize>>,
    tallies: BTreeMap<Door, Tally>,
}

impl Ledger {
    fn state<T>(&self, read: impl FnOnce(&mut State) -> T) -> T {
        read(&mut self.state.lock().expect("nobody panics while holding it"))
    }

    /// Notes a response; returns its index.
    pub fn acknowledge(&self, response: Acknowledged) -> usize {
        self.state(|state| {
            let index = state.acknowledged.len();
            if let Some(parent) = response.parent {
                state.is_continued[parent] = true;
            }
            if response.depth < MAX_DEPTH {
                state.by_project.entry(response.project).or_default().push(index);
            }
            state.acknowledged.push(response);
            state.is_continued.push(false);
            index
        })
    }

    pub fn tally(&self, door: Door, count: impl FnOnce(&mut Tally)) {
        self.state(|state| count(state.tallies.entry(door).or_default()));
    }

    pub fn tallies(&self) -> BTreeMap<Door, Tally> {
        self.state(|state| state.tallies.clone())
    }

    pub fn len(&self) -> usize {
        self.state(|state| state.acknowledged.len())
    }

    /// How many of the project's.
    pub fn count(&self, project: usize) -> usize {
        self.state(|state| state.acknowledged.iter().filter(|response| response.project == project).count())
    }

    pub fn get(&self, index: usize) -> Acknowledged {
        self.state(|state| state.acknowledged[index].clone())
    }

    /// One of the project's that a chain can be continued from.
    pub fn any(&self, project: usize, rng: &mut StdRng) -> Option<usize> {
        self.state(|state| {
            let candidates = state.by_project.get(&project).filter(|candidates| !candidates.is_empty())?;
            Some(candidates[rng.random_range(0..candidates.len())])
        })
    }

    pub fn may_be_continued(&self, index: usize) -> bool {
        self.get(index).depth < MAX_DEPTH
    }

    /// The ends of all chains and branches.
    pub fn leaves(&self) -> Vec<usize> {
        self.state(|state| {
            (0..state.acknowledged.len()).filter(|index| !state.is_continued[*index]).collect()
        })
    }
}
