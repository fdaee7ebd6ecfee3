//! Random histories, compared with a model that is too simple to be wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_store::chain::Chains;
use antiphon_store::{ChainQuery, PurgeProgress, Store, StoredTurn};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;

use crate::fixture::{Fixture, after, id, numbers, project, record_of, turn, whole};

/// So small that the cache always releases turns.
const CACHE_BYTES: usize = 4_000;

#[derive(Debug, Clone)]
enum Step {
    /// Continues a live turn if there is one, else begins a chain. Expires after so many seconds, if at all.
    Record {
        project: bool,
        parent: Option<Index>,
        lives: Option<u64>,
    },
    Delete(Index),
    Wait(u64),
    Purge(u32),
}

struct Modelled {
    project: &'static str,
    parent: Option<u64>,
    depth: u32,
    dies: Option<u64>,
    is_deleted: bool,
}

#[derive(Default)]
struct Model {
    turns: BTreeMap<u64, Modelled>,
    now: u64,
}

impl Model {
    fn is_live(&self, n: u64) -> bool {
        let turn = &self.turns[&n];
        !turn.is_deleted && turn.dies.is_none_or(|dies| dies > self.now)
    }

    fn live(&self, project: &str) -> Vec<u64> {
        self.turns.keys().copied().filter(|n| self.turns[n].project == project && self.is_live(*n)).collect()
    }

    /// From the turn to the root.
    fn chain(&self, n: u64) -> Vec<u64> {
        std::iter::successors(Some(n), |n| self.turns[n].parent).collect()
    }

    /// Whether a live turn replays through this one, or is it.
    fn is_needed(&self, n: u64) -> bool {
        self.turns.keys().any(|&leaf| self.is_live(leaf) && self.chain(leaf).contains(&n))
    }
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        6 => (any::<bool>(), prop::option::weighted(0.8, index()), prop::option::of(1..20_u64))
            .prop_map(|(project, parent, lives)| Step::Record { project, parent, lives }),
        3 => index().prop_map(Step::Delete),
        2 => (0..5_u64).prop_map(Step::Wait),
        1 => (1..6_u32).prop_map(Step::Purge),
    ]
}

pub(crate) async fn random_histories_match_the_model<F: Fixture>(_: F) {
    let runtime = Handle::current();
    tokio::task::block_in_place(|| {
        let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(&vec(step(), 1..60), |steps| {
            runtime.block_on(follow(&F::new(), steps));
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{failure}");
        }
    });
}

async fn follow(fixture: &impl Fixture, steps: Vec<Step>) {
    let store = fixture.open().await;
    let chains = Chains::new(Arc::clone(&store), CACHE_BYTES);
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Record { project, parent, lives } => {
                record(&mut model, &chains, if project { "p" } else { "q" }, parent, lives).await;
            }
            Step::Delete(index) => delete(&mut model, &chains, index).await,
            Step::Wait(seconds) => model.now += seconds,
            Step::Purge(max) => {
                assert!(
                    store
                        .purge(&mut PurgeProgress::default(), after(model.now), None, max)
                        .await
                        .unwrap()
                        .responses
                        <= max.into()
                );
            }
        }
        compare(&model, &store, &chains).await;
    }
    while store.purge(&mut PurgeProgress::default(), after(model.now), None, 7).await.unwrap().responses > 0 {
    }
    for (&n, turn) in &model.turns {
        let rows = store.load_chain(&project(turn.project), whole(n)).await.unwrap();
        assert_eq!(!rows.is_empty(), model.is_needed(n), "{n} after all was purged");
    }
    drop(chains);
    store.close().await;
}

async fn record(
    model: &mut Model,
    chains: &Chains,
    name: &'static str,
    parent: Option<Index>,
    lives: Option<u64>,
) {
    let n = model.turns.len() as u64;
    let live = model.live(name);
    let parent = parent.filter(|_| !live.is_empty()).map(|index| *index.get(&live));
    let link = parent.map(|parent| (parent, model.turns[&parent].depth));
    let dies = lives.map(|lives| model.now + lives);
    let turn = StoredTurn { expires_at: dies.map(after), ..turn(n, link) };
    let depth = turn.depth;
    // Every other caller passes the parent.
    let at_hand = match parent.filter(|_| n.is_multiple_of(2)) {
        Some(parent) => chains.load(&project(name), id(parent), after(model.now), 100).await.unwrap(),
        None => None,
    };
    chains.record(record_of(name, turn), at_hand).await.unwrap();
    model.turns.insert(n, Modelled { project: name, parent, depth, dies, is_deleted: false });
}

async fn delete(model: &mut Model, chains: &Chains, index: Index) {
    if model.turns.is_empty() {
        return;
    }
    let n = index.index(model.turns.len()) as u64;
    let expected = model.is_live(n);
    let name = project(model.turns[&n].project);
    assert_eq!(chains.delete(&name, id(n), after(model.now)).await.unwrap(), expected);
    if let Some(turn) = model.turns.get_mut(&n).filter(|_| expected) {
        turn.is_deleted = true;
    }
}

async fn compare(model: &Model, store: &Arc<dyn Store>, chains: &Chains) {
    let now = after(model.now);
    for (&n, turn) in &model.turns {
        let name = project(turn.project);
        let expected = if model.is_live(n) { model.chain(n) } else { Vec::new() };
        let query = ChainQuery { from: id(n), visible_at: Some(now), max_turns: 1_000 };
        assert!(
            numbers(&store.load_chain(&name, query).await.unwrap(), expected.clone()),
            "{n} in the store"
        );
        let cached = chains.load(&name, id(n), now, 1_000).await.unwrap();
        let found: Vec<_> = cached
            .iter()
            .flat_map(|turn| [turn.id].into_iter().chain(turn.ancestors().map(|t| t.id)))
            .collect();
        assert_eq!(found, expected.into_iter().map(id).collect::<Vec<_>>(), "{n} in the cache");
    }
}
