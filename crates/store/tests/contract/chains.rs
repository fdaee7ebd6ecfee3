//! A chain is loaded whole, whatever its length and however it branches.

use antiphon_protocol::replay::ReplayIds;
use antiphon_store::chain::{Chains, Turn};
use antiphon_store::{ChainQuery, StoreError};

use crate::fixture::{Fixture, NOW, id, numbers, project, record, record_chain, whole};

pub(crate) async fn a_chain_comes_newest_first(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 3, None).await;
    let chain = store.load_chain(&project("p"), whole(3)).await.unwrap();
    assert!(numbers(&chain, [3, 2, 1]));
    assert_eq!(chain.iter().map(|turn| turn.depth).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(chain[1], record(2, Some((1, 1))).response.turn);
}

async fn loads_whole(fixture: impl Fixture, len: u64) {
    let store = fixture.open().await;
    record_chain(&store, 1, len, None).await;
    let chain = store.load_chain(&project("p"), whole(len)).await.unwrap();
    assert!(numbers(&chain, (1..=len).rev()));
    let chains = Chains::new(store, 64 << 20);
    let turn = chains.load(&project("p"), id(len), NOW, 10_000).await.unwrap().unwrap();
    assert_eq!(turn.ancestors().count() as u64, len - 1);
}

pub(crate) async fn a_chain_of_a_thousand_turns_loads_whole(fixture: impl Fixture) {
    loads_whole(fixture, 1_000).await;
}

pub(crate) async fn a_chain_of_ten_thousand_turns_loads_whole(fixture: impl Fixture) {
    loads_whole(fixture, 10_000).await;
}

pub(crate) async fn a_turn_of_a_megabyte_is_the_same_from_memory_and_from_the_store(fixture: impl Fixture) {
    let store = fixture.open().await;
    let mut large = record(1, None);
    let items = vec![r#"{"id":"rs_1","type":"reasoning","encrypted_content":"x"},{"role":"user"}"#; 16_000];
    large.response.turn.input = format!("[{}]", items.join(",")).into();
    large.response.turn.referenced = (0..32_000).step_by(2).collect();
    let chains = Chains::new(store.clone(), 64 << 20);
    chains.record(large, None).await.unwrap();
    let load = async |chains: &Chains| chains.load(&project("p"), id(1), NOW, 10).await.unwrap().unwrap();
    let (kept, misses) = (load(&chains).await, chains.cache_stats().misses);
    assert_eq!((misses, kept.segment.items().len() > 1 << 20), (0, true));
    assert_eq!(load(&Chains::new(store, 64 << 20)).await.segment, kept.segment);
}

pub(crate) async fn forks_share_their_trunk(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 900, None).await;
    record_chain(&store, 2_000, 100, Some((900, 900))).await;
    record_chain(&store, 3_000, 100, Some((900, 900))).await;
    for branch in [2_000, 3_000] {
        let chain = store.load_chain(&project("p"), whole(branch + 99)).await.unwrap();
        assert!(numbers(&chain, (branch..branch + 100).rev().chain((1..=900).rev())));
    }
    let chains = Chains::new(store, 64 << 20);
    let load = async |n| chains.load(&project("p"), id(n), NOW, 10_000).await.unwrap().unwrap();
    let (one, other) = (load(2_099).await, load(3_099).await);
    let trunk = |turn: &Turn| turn.ancestors().find(|turn| turn.id == id(900)).map(std::sync::Arc::as_ptr);
    assert_eq!(trunk(&one), trunk(&other));
}

pub(crate) async fn part_of_a_chain_can_be_loaded(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 20, None).await;
    let query = ChainQuery { from: id(20), visible_at: Some(NOW), max_turns: 8 };
    let part = store.load_chain(&project("p"), query).await.unwrap();
    assert!(numbers(&part, (13..=20).rev()));
    let query = ChainQuery { from: id(12), visible_at: None, max_turns: 12 };
    assert!(numbers(&store.load_chain(&project("p"), query).await.unwrap(), (1..=12).rev()));
}

pub(crate) async fn a_gap_is_an_error(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(2, Some((1, 1)))).await.unwrap();
    store.record(record(3, Some((2, 2)))).await.unwrap();
    // A turn that does not follow from its parent is as bad as a missing one.
    store.record(record(4, Some((3, 7)))).await.unwrap();
    for n in [2, 3, 4] {
        let error = store.load_chain(&project("p"), whole(n)).await.unwrap_err();
        assert!(matches!(error, StoreError::BrokenChain { response } if response == id(n)), "{error}");
    }
    let chains = Chains::new(store, 64 << 20);
    let error = chains.load(&project("p"), id(3), NOW, 10_000).await.unwrap_err();
    assert!(matches!(error, StoreError::BrokenChain { .. }), "{error}");
}

pub(crate) async fn a_cached_chain_is_the_stored_one(fixture: impl Fixture) {
    let store = fixture.open().await;
    let writer = Chains::new(store.clone(), 64 << 20);
    let mut parent = None;
    for n in 1..=30_u32 {
        let link = (n > 1).then(|| (u64::from(n) - 1, n - 1));
        writer.record(record(n.into(), link), parent.take()).await.unwrap();
        // What is cached counts for a while only, which thirty commits may exceed.
        writer.learn_deletions(NOW).await.unwrap();
        parent = writer.load(&project("p"), id(n.into()), NOW, 10_000).await.unwrap();
    }
    assert_eq!((writer.cache_stats().hits, writer.cache_stats().misses), (30, 0));
    let reader = Chains::new(store, 64 << 20);
    let loaded = reader.load(&project("p"), id(30), NOW, 10_000).await.unwrap();
    assert_eq!(replayed(&loaded.unwrap()), replayed(&parent.unwrap()));
    assert_eq!(reader.load(&project("p"), id(31), NOW, 10_000).await.unwrap().map(|turn| turn.id), None);
    let too_deep = reader.load(&project("p"), id(30), NOW, 29).await.unwrap();
    assert_eq!(too_deep.unwrap().depth, 30);
}

fn replayed(turn: &Turn) -> Vec<u8> {
    let mut parts = Vec::new();
    let segments = std::iter::once(&turn.segment).chain(turn.ancestors().map(|turn| &turn.segment));
    segments.for_each(|segment| segment.parts(ReplayIds::Keep, &mut parts));
    parts.concat()
}
