//! Limits: what running turns hold, and what finished turns used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_store::{
    Abandoned, Count, CounterId, Hold, Measure, Reservation, Settlement, Spent, Store, Timestamp,
};
use antiphon_testkit::eventually;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::fixture::{Fixture, NOW, after, id, log_row, record};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn hold(scope: &str, measure: Measure, amount: u64, limit: u64) -> Hold {
    let (rule, is_windowed) = match measure {
        Measure::Requests => ("requests", true),
        Measure::Tokens => ("tokens", true),
        Measure::Cost => ("cost", true),
        Measure::Turns => ("turns", false),
    };
    let [window_start, window_end] =
        if is_windowed { [NOW, NOW.plus(MINUTE)] } else { [Timestamp::from_unix_ms(0); 2] };
    let counter = CounterId { scope: scope.into(), rule: rule.into(), window_start };
    Hold { counter, window_end, measure, amount, limit }
}

/// The reservation of the n-th turn, which expires after an hour.
pub(crate) fn reservation(n: u64, holds: Vec<Hold>) -> Reservation {
    Reservation { id: id(n), replica: Uuid::nil(), expires_at: after(3_600), holds }
}

pub(crate) fn usual_holds() -> Vec<Hold> {
    vec![hold("key:k", Measure::Requests, 1, 10), hold("key:k", Measure::Tokens, 100, 1_000)]
}

pub(crate) fn settlement(n: u64, requests: u64, tokens: u64) -> Settlement {
    Settlement { id: id(n), spent: Spent { requests, tokens, cost_nano_usd: 0 } }
}

fn counts(counts: &[(u64, u64)]) -> Vec<Count> {
    counts.iter().map(|&(used, held)| Count { used, held }).collect()
}

/// Used and held, by rule.
pub(crate) async fn counters_of(store: &Arc<dyn Store>, scope: &str) -> BTreeMap<String, (u64, u64)> {
    let counters = store.list_counters(scope, NOW).await.unwrap();
    counters.into_iter().map(|(id, count)| (id.rule.to_string(), (count.used, count.held))).collect()
}

pub(crate) fn of(rules: &[(&str, u64, u64)]) -> BTreeMap<String, (u64, u64)> {
    rules.iter().map(|&(rule, used, held)| (rule.to_owned(), (used, held))).collect()
}

/// Waits until this many reservations hold something. Settlements are written in the background.
async fn wait_for_reservations(store: &Arc<dyn Store>, number: u64) {
    let what = format!("{number} reservations");
    eventually(&what, async || store.count_reservations().await.unwrap() == number).await;
}

pub(crate) async fn a_reservation_is_held_whole_or_not_at_all(fixture: impl Fixture) {
    let store = fixture.open().await;
    let holds = |tokens| {
        vec![
            hold("key:k", Measure::Turns, 1, 3),
            hold("key:k", Measure::Tokens, tokens, 100),
            hold("project:p", Measure::Tokens, tokens, 150),
        ]
    };
    let first = store.reserve(reservation(1, holds(60))).await.unwrap();
    assert!(first.is_held);
    assert_eq!(first.counts, counts(&[(0, 0), (0, 0), (0, 0)]));
    let second = store.reserve(reservation(2, holds(41))).await.unwrap();
    assert!(!second.is_held, "60 and 41 are more than 100");
    assert_eq!(second.counts, counts(&[(0, 1), (0, 60), (0, 60)]));
    assert!(
        store.reserve(reservation(2, holds(40))).await.unwrap().is_held,
        "the same turn may ask for less"
    );
    assert_eq!(counters_of(&store, "key:k").await, of(&[("turns", 0, 2), ("tokens", 0, 100)]));
    assert_eq!(counters_of(&store, "project:p").await, of(&[("tokens", 0, 100)]));
    let project_holds = vec![hold("project:p", Measure::Tokens, 51, 150)];
    assert!(!store.reserve(reservation(3, project_holds)).await.unwrap().is_held);
    let other_holds = vec![hold("key:l", Measure::Tokens, 100, 100)];
    assert!(store.reserve(reservation(4, other_holds)).await.unwrap().is_held, "another key has its own");
    assert_eq!(store.count_reservations().await.unwrap(), 3);
    store.settle(settlement(1, 1, 70), None);
    store.settle(Settlement::release(id(2)), None);
    wait_for_reservations(&store, 1).await;
    assert_eq!(counters_of(&store, "key:k").await, of(&[("turns", 0, 0), ("tokens", 70, 0)]));
    let next = store.reserve(reservation(5, holds(30))).await.unwrap();
    assert_eq!((next.is_held, next.counts), (true, counts(&[(0, 0), (70, 0), (70, 0)])));
    if fixture.survives() {
        store.close().await;
        let store = fixture.open().await;
        assert_eq!(counters_of(&store, "key:k").await, of(&[("turns", 0, 1), ("tokens", 70, 30)]));
    }
}

pub(crate) async fn a_turn_that_is_settled_twice_counts_once(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert!(store.reserve(reservation(1, usual_holds())).await.unwrap().is_held);
    store.settle(settlement(1, 1, 70), Some(log_row("p", id(1), NOW)));
    store.settle(settlement(1, 1, 70), None);
    wait_for_reservations(&store, 0).await;
    assert_eq!(store.list_log(9).await.unwrap(), [log_row("p", id(1), NOW)]);
    store.settle(settlement(1, 1, 70), Some(log_row("p", id(1), NOW)));
    store.settle(settlement(2, 1, 70), None);
    store.close().await;
    if fixture.survives() {
        let store = fixture.open().await;
        assert_eq!(counters_of(&store, "key:k").await, of(&[("requests", 1, 0), ("tokens", 70, 0)]));
    }
}

pub(crate) async fn a_record_settles_its_reservation(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 1..=3 {
        assert!(store.reserve(reservation(n, usual_holds())).await.unwrap().is_held);
    }
    let mut first = record(1, None);
    first.settlement = Some(settlement(1, 1, 50));
    store.record(first.clone()).await.unwrap();
    assert_eq!(counters_of(&store, "key:k").await, of(&[("requests", 1, 2), ("tokens", 50, 200)]));
    // The response exists already, so nothing of this is written.
    first.settlement = Some(settlement(2, 1, 50));
    let mut second = record(2, None);
    second.settlement = Some(settlement(3, 1, 8));
    let (refused, written) = tokio::join!(store.record(first), store.record(second));
    refused.unwrap_err();
    written.unwrap();
    assert_eq!(counters_of(&store, "key:k").await, of(&[("requests", 2, 1), ("tokens", 58, 100)]));
}

pub(crate) async fn concurrent_reservations_exceed_no_limit_and_leak_nothing(fixture: impl Fixture) {
    let store = fixture.open().await;
    // In different orders, with some counters in common.
    let holds = |n: u64| {
        let mut holds = vec![
            hold("key:k", Measure::Turns, 1, 10),
            hold("project:p", Measure::Requests, 1, 150),
            hold(["key:a", "key:b", "key:c"][n as usize % 3], Measure::Tokens, 7, 1_000),
        ];
        if n.is_multiple_of(2) {
            holds.reverse();
        }
        holds
    };
    let turn = async |n: u64| {
        let reserve = async || store.reserve(reservation(n, holds(n))).await.unwrap().is_held;
        eventually("there is room for the turn", reserve).await;
        let running = counters_of(&store, "key:k").await["turns"];
        assert!(running.1 >= 1 && running.1 <= 10, "{running:?}");
        store.settle(settlement(n, 1, 5), Some(log_row("p", id(n), NOW)));
    };
    futures_util::future::join_all((1..=120).map(turn)).await;
    wait_for_reservations(&store, 0).await;
    assert_eq!(counters_of(&store, "key:k").await, of(&[("turns", 0, 0)]));
    assert_eq!(counters_of(&store, "project:p").await, of(&[("requests", 120, 0)]));
    for key in ["key:a", "key:b", "key:c"] {
        assert_eq!(counters_of(&store, key).await, of(&[("tokens", 200, 0)]));
    }
    let at_once = (200..300).map(|n| store.reserve(reservation(n, holds(n))));
    let held = futures_util::future::join_all(at_once).await;
    assert_eq!(held.iter().filter(|held| held.as_ref().unwrap().is_held).count(), 10);
    assert_eq!(store.count_reservations().await.unwrap(), 10);
}

pub(crate) async fn a_reservation_of_a_dropped_caller_is_released(fixture: impl Fixture) {
    let store = fixture.open().await;
    let kept = store.reserve(reservation(1, usual_holds())).await.unwrap();
    assert!(kept.is_held);
    let calls = (0..60_u64).map(|n| {
        let store = Arc::clone(&store);
        let patience = Duration::from_micros(n * 100);
        async move {
            let reserving = store.reserve(reservation(10 + n, vec![hold("key:k", Measure::Tokens, 1, 900)]));
            match tokio::time::timeout(patience, reserving).await {
                Ok(held) => store.settle(settlement(10 + n, 0, u64::from(held.unwrap().is_held)), None),
                Err(_dropped) => {}
            }
        }
    });
    futures_util::future::join_all(calls).await;
    // What waited in the queue has been taken out of it when this is.
    store.check().await.unwrap();
    eventually("only what was kept is held", async || {
        let standing = counters_of(&store, "key:k").await;
        let is_kept = standing["requests"] == (0, 1) && standing["tokens"].1 == 100;
        is_kept && store.count_reservations().await.unwrap() == 1
    })
    .await;
}

pub(crate) async fn an_expired_reservation_is_released_and_its_turn_still_counts(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 1..=3 {
        assert!(store.reserve(reservation(n, usual_holds())).await.unwrap().is_held);
    }
    store.settle(settlement(3, 1, 5), None);
    wait_for_reservations(&store, 2).await;
    assert_eq!(store.sweep(Abandoned::Expired, after(3_599), 10).await.unwrap(), 0);
    assert_eq!(store.sweep(Abandoned::Expired, after(3_600), 1).await.unwrap(), 1);
    assert_eq!(store.sweep(Abandoned::Expired, after(3_600), 10).await.unwrap(), 1);
    assert_eq!(store.sweep(Abandoned::Expired, after(3_600), 10).await.unwrap(), 0);
    assert_eq!(store.count_reservations().await.unwrap(), 0);
    assert_eq!(counters_of(&store, "key:k").await, of(&[("requests", 1, 0), ("tokens", 5, 0)]));
    store.settle(settlement(1, 1, 6), None);
    let counted = of(&[("requests", 2, 0), ("tokens", 11, 0)]);
    eventually("the turn counts", async || counters_of(&store, "key:k").await == counted).await;
    while store.purge_counters(after(3_600), 1).await.unwrap() {}
    store.settle(settlement(2, 1, 6), None);
    store.close().await;
    if fixture.survives() {
        assert_eq!(
            counters_of(&fixture.open().await, "key:k").await,
            of(&[]),
            "purged counters do not come back"
        );
    }
}

pub(crate) async fn old_counters_are_purged(fixture: impl Fixture) {
    let store = fixture.open().await;
    let both = vec![hold("key:k", Measure::Turns, 1, 3), hold("key:k", Measure::Tokens, 1, 3)];
    assert!(store.reserve(reservation(1, both)).await.unwrap().is_held);
    assert!(!store.purge_counters(after(999), 10).await.unwrap(), "they are held");
    store.settle(settlement(1, 1, 1), None);
    wait_for_reservations(&store, 0).await;
    assert!(store.purge_counters(after(59), 10).await.unwrap(), "nothing runs");
    assert_eq!(counters_of(&store, "key:k").await, of(&[("tokens", 1, 0)]));
    assert!(!store.purge_counters(after(59), 10).await.unwrap());
    assert!(store.purge_counters(after(60), 10).await.unwrap());
    assert_eq!(counters_of(&store, "key:k").await, of(&[]));
    let late = vec![hold("key:k", Measure::Tokens, 1, 3)];
    assert!(store.reserve(reservation(2, late)).await.unwrap().is_held, "a late one begins anew");
}

#[derive(Debug, Clone)]
enum Step {
    Reserve { tokens: u64, lives: u64 },
    Settle { turn: Index, tokens: u64 },
    Wait(u64),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        5 => (1..60_u64, 1..20_u64).prop_map(|(tokens, lives)| Step::Reserve { tokens, lives }),
        4 => (index(), 0..200_u64).prop_map(|(turn, tokens)| Step::Settle { turn, tokens }),
        2 => (0..9_u64).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
    ]
}

/// What a turn of the model still holds, and whether it can settle.
struct Modelled {
    held: Option<u64>,
    expires: u64,
    is_settled: bool,
}

#[derive(Default)]
struct Model {
    turns: Vec<Modelled>,
    used: u64,
    now: u64,
}

impl Model {
    fn held(&self) -> u64 {
        self.turns.iter().filter_map(|turn| turn.held).sum()
    }

    fn running(&self) -> u64 {
        self.turns.iter().filter(|turn| turn.held.is_some()).count() as u64
    }
}

pub(crate) async fn random_histories_of_reservations_add_up<F: Fixture>(fixture: F) {
    let runtime = Handle::current();
    let store = fixture.open().await;
    let mut case = 0;
    tokio::task::block_in_place(|| {
        let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
        let case = std::cell::RefCell::new(&mut case);
        let result = TestRunner::new(config).run(&vec(step(), 1..40), |steps| {
            **case.borrow_mut() += 1;
            runtime.block_on(follow(&store, **case.borrow(), steps));
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{failure}");
        }
    });
}

/// Each history has its own scope and year.
async fn follow(store: &Arc<dyn Store>, case: u64, steps: Vec<Step>) {
    let scope = format!("key:{case}");
    let begin = case * 31_536_000;
    let turn_id = |turn: usize| case * 1_000 + turn as u64;
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Reserve { tokens, lives } => {
                let fits = model.used + model.held() + tokens <= 100;
                let holds =
                    vec![hold(&scope, Measure::Tokens, tokens, 100), hold(&scope, Measure::Turns, 1, 99)];
                let expires = model.now + lives;
                let expires_at = after(begin + expires);
                let new = Reservation {
                    id: id(turn_id(model.turns.len())),
                    replica: Uuid::nil(),
                    expires_at,
                    holds,
                };
                let reserved = store.reserve(new).await.unwrap();
                assert_eq!(
                    reserved.is_held,
                    fits,
                    "{} used, {} held, {tokens} more",
                    model.used,
                    model.held()
                );
                assert_eq!(reserved.counts, counts(&[(model.used, model.held()), (0, model.running())]));
                model.turns.push(Modelled { held: fits.then_some(tokens), expires, is_settled: !fits });
            }
            Step::Settle { turn, tokens } if !model.turns.is_empty() => {
                let turn = turn.index(model.turns.len());
                store.settle(settlement(turn_id(turn), 1, tokens), None);
                let settled = &mut model.turns[turn];
                if !std::mem::replace(&mut settled.is_settled, true) {
                    model.used += tokens;
                    settled.held = None;
                }
            }
            Step::Settle { .. } => {}
            Step::Wait(seconds) => model.now += seconds,
            Step::Sweep => {
                let expired: Vec<_> = (model.turns.iter_mut())
                    .filter(|turn| turn.held.is_some() && turn.expires <= model.now)
                    .collect();
                assert_eq!(
                    store.sweep(Abandoned::Expired, after(begin + model.now), 99).await.unwrap(),
                    expired.len() as u64
                );
                expired.into_iter().for_each(|turn| turn.held = None);
            }
        }
        wait_for_counters(store, &scope, &model).await;
    }
    for turn in 0..model.turns.len() {
        store.settle(settlement(turn_id(turn), 1, 3), None);
        if !model.turns[turn].is_settled {
            model.turns[turn] = Modelled { held: None, expires: 0, is_settled: true };
            model.used += 3;
        }
    }
    wait_for_counters(store, &scope, &model).await;
    assert_eq!(store.count_reservations().await.unwrap(), 0);
}

async fn wait_for_counters(store: &Arc<dyn Store>, scope: &str, model: &Model) {
    let (tokens, turns) = ((model.used, model.held()), (0, model.running()));
    eventually(&format!("used and held are {tokens:?} and {turns:?}"), async || {
        let counters = counters_of(store, scope).await;
        let of = |rule| counters.get(rule).copied().unwrap_or_default();
        (of("tokens"), of("turns")) == (tokens, turns)
    })
    .await;
}
