//! The pool as turns use it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use antiphon_store::{Clock, Timestamp};
use futures_util::FutureExt;
use futures_util::future::join_all;
use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use antiphon_protocol::model::ModelPattern;
use antiphon_protocol::replay::ReplayIds;
use antiphon_protocol::request::Operation;
use http::HeaderMap;

use super::{Account, Lease, Origin, Pool, Preference, Readiness, Shortage, Verdict, Wanted};
use crate::dialect::Dialect;
use crate::route::Route;
use crate::settings::{
    AccountSettings, CredentialSettings, RoutingSettings, Strategy as Routing, UpstreamApi, UpstreamState,
    UpstreamTransport,
};

#[derive(Debug, Default)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.load(Ordering::Relaxed))
    }
}

impl TestClock {
    fn advance(&self, ms: u16) {
        self.0.fetch_add(i64::from(ms), Ordering::Relaxed);
    }
}

fn account(name: &str, max_in_flight: Option<u32>) -> AccountSettings {
    AccountSettings {
        name: name.to_owned(),
        base_url: "http://127.0.0.1:1/v1".parse().unwrap(),
        credential: CredentialSettings::None,
        models: vec![ModelPattern::parse("m*").unwrap()],
        boundary: name[..1].to_owned(),
        aliases: BTreeMap::new(),
        headers: HeaderMap::new(),
        query: BTreeMap::new(),
        api: UpstreamApi::Fixed(Dialect::Responses),
        route: Route::default(),
        transport: UpstreamTransport::Http,
        stream_only: false,
        background: Default::default(),
        state: UpstreamState::Replay,
        replay_ids: ReplayIds::Drop,
        priority: 0,
        weight: 1,
        max_in_flight,
        shown: serde_json::Value::Null,
    }
}

fn routing() -> RoutingSettings {
    RoutingSettings {
        strategy: Routing::LeastLoaded,
        max_queued: 1000,
        queue_timeout: Duration::from_mins(1),
        patience: Duration::from_secs(10),
        probe_interval: None,
    }
}

fn pool(accounts: &[AccountSettings], routing: RoutingSettings) -> (Arc<Pool>, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    let accounts = accounts.iter().map(|account| Account::new(account.clone()).unwrap()).collect();
    (Arc::new(Pool::new(accounts, routing, Arc::clone(&clock) as _)), clock)
}

fn wanted(model: &str) -> Wanted<'_> {
    Wanted { model, ..Wanted::default() }
}

fn of_caller(model: &str) -> Wanted<'_> {
    Wanted { caller: Some("caller"), ..wanted(model) }
}

fn in_flight(pool: &Pool) -> Vec<u32> {
    pool.view().iter().map(|account| account.state.in_flight).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Choose {
        model: usize,
        origin: Option<usize>,
        key: Option<u8>,
    },
    End {
        lease: usize,
        verdict: Verdict,
    },
    Leave {
        lease: usize,
    },
    Wait {
        ms: u16,
    },
    /// Another configuration, with this weight and without the account at this place.
    Replace {
        weight: u32,
        removed: Option<usize>,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let verdict = prop_oneof![
        4 => Just(Verdict::Served),
        4 => Just(Verdict::Failed),
        1 => Just(Verdict::RateLimited { until: None }),
        1 => (0..9_000_i64).prop_map(|ms| Verdict::RateLimited { until: Some(Timestamp::from_unix_ms(ms)) }),
        1 => Just(Verdict::ModelMissing),
        1 => Just(Verdict::Neutral),
    ];
    let choose = (0..3_usize, proptest::option::of(0..4_usize), proptest::option::of(0..9_u8))
        .prop_map(|(model, origin, key)| Step::Choose { model, origin, key });
    let step = prop_oneof![
        6 => choose,
        4 => (0..64_usize, verdict).prop_map(|(lease, verdict)| Step::End { lease, verdict }),
        1 => (0..64_usize).prop_map(|lease| Step::Leave { lease }),
        2 => (0..4_000_u16).prop_map(|ms| Step::Wait { ms }),
        1 => (1..4_u32, proptest::option::of(0..NAMES.len()))
            .prop_map(|(weight, removed)| Step::Replace { weight, removed }),
    ];
    proptest::collection::vec(step, 1..120)
}

const NAMES: [&str; 4] = ["a1", "a2", "b1", "b2"];
const MODELS: [&str; 3] = ["m1", "m2", "none"];

proptest! {
    #[test]
    fn leases_are_released_limits_hold_and_only_ready_accounts_are_chosen(
        steps in steps(),
        strategy in prop_oneof![Just(Routing::LeastLoaded), Just(Routing::RoundRobin), Just(Routing::FillFirst)],
    ) {
        const MAX: u32 = 3;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let accounts = NAMES.map(|name| account(name, Some(MAX)));
        let (pool, clock) = pool(&accounts, RoutingSettings { strategy, ..routing() });
        let mut held: Vec<Lease> = Vec::new();
        for step in steps {
            match step {
                Step::Wait { ms } => clock.advance(ms),
                Step::Replace { weight, removed } => {
                    let with_weight = |settings: &AccountSettings| AccountSettings { weight, ..settings.clone() };
                    let mut accounts = accounts.each_ref().map(with_weight).to_vec();
                    removed.map(|removed| accounts.remove(removed));
                    pool.replace(accounts, RoutingSettings { strategy, ..routing() }).unwrap();
                }
                Step::Leave { lease } if lease < held.len() => drop(held.swap_remove(lease)),
                Step::End { lease, verdict } if lease < held.len() => {
                    let lease = held.swap_remove(lease);
                    lease.record_attempt(&verdict, of_caller("m1"));
                }
                Step::Leave { .. } | Step::End { .. } => {}
                Step::Choose { model, origin, key } => {
                    let key = key.map(|key| key.to_string());
                    let origin = origin.map(|at| Origin { account: NAMES[at], boundary: &NAMES[at][..1] });
                    let preference = Preference { origin, key: key.as_deref() };
                    let wanted = Wanted { model: MODELS[model], preference, ..Wanted::default() };
                    let usable: Vec<String> = pool
                        .view()
                        .iter()
                        .filter(|view| view.state.readiness_for(wanted.operation, wanted.model, clock.now()) == Readiness::Ready)
                        .filter(|view| view.state.in_flight < MAX && model < 2)
                        .map(|view| view.account.name.clone())
                        .collect();
                    match pool.choose(wanted).now_or_never() {
                        Some(Ok(lease)) => {
                            let name = &lease.account().name;
                            prop_assert!(usable.contains(name));
                            if let Some(origin) = origin {
                                let stays = usable.iter().any(|name| name == origin.account);
                                let is_readable = usable.iter().any(|name| name.starts_with(origin.boundary));
                                prop_assert!(!stays || name == origin.account);
                                prop_assert!(!is_readable || name.starts_with(origin.boundary));
                            }
                            held.push(lease);
                        }
                        refused => prop_assert!(usable.is_empty(), "{refused:?} although {usable:?} are ready"),
                    }
                }
            }
            for view in pool.view() {
                let leases = held.iter().filter(|lease| lease.account().name == view.account.name).count();
                prop_assert_eq!(view.state.in_flight as usize, leases);
            }
        }
        held.clear();
        pool.replace(accounts.to_vec(), routing()).unwrap();
        prop_assert_eq!(in_flight(&pool), vec![0; NAMES.len()]);
        prop_assert_eq!(pool.queued(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn turns_count_for_their_account_over_every_change_of_the_configuration() {
    let busy = account("a", Some(1));
    let changed = AccountSettings { weight: 2, ..busy.clone() };
    let elsewhere = AccountSettings { base_url: "http://127.0.0.1:2/v1".parse().unwrap(), ..busy.clone() };
    let wider = AccountSettings { max_in_flight: Some(2), ..busy.clone() };
    let (pool, _) = pool(std::slice::from_ref(&busy), routing());
    let replace = |accounts: &[&AccountSettings]| {
        pool.replace(accounts.iter().map(|account| (*account).clone()).collect(), routing()).unwrap();
    };
    let next = || pool.choose(wanted("m")).now_or_never().and_then(Result::ok);
    let first = next().unwrap();
    for (accounts, change) in [
        (&[&changed][..], "its weight changes"),
        (&[&elsewhere], "its upstream changes"),
        (&[&account("b", None)], "it is removed"),
        (&[], "it stays away"),
        (&[&busy], "it comes back"),
    ] {
        replace(accounts);
        let has_room = accounts.iter().any(|account| account.name == "b");
        assert_eq!(next().is_some(), has_room, "{change}");
    }

    replace(&[&wider]);
    let second = next().expect("there is room for two turns");
    assert!(next().is_none());
    replace(&[&busy]);
    drop(first);
    assert_eq!((in_flight(&pool), next().is_none()), (vec![1], true));
    replace(&[]);
    drop(second);
    replace(&[&busy]);
    assert_eq!((in_flight(&pool), next().is_some()), (vec![0], true));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_turn_gets_the_place_of_a_turn_that_began_before_a_change() {
    let busy = account("a", Some(1));
    let changed = AccountSettings { weight: 2, ..busy.clone() };
    let (pool, _) = pool(&[busy], routing());
    let first = pool.choose(wanted("m")).await.unwrap();
    let mut second = Box::pin(pool.choose(wanted("m")));
    assert!((&mut second).now_or_never().is_none());
    pool.replace(vec![changed], routing()).unwrap();
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    assert_eq!(second.await.unwrap().account().settings.weight, 2);
}

#[test]
fn sequential_turns_follow_weights_and_the_strategy() {
    let spread = |strategy| {
        let heavy = AccountSettings { weight: 3, ..account("a1", None) };
        let (pool, _) = pool(&[heavy, account("b1", None)], RoutingSettings { strategy, ..routing() });
        let names = (0..40).map(|_| {
            let lease = pool.choose(wanted("m")).now_or_never().unwrap().unwrap();
            lease.account().name.clone()
        });
        names.filter(|name| name == "a1").count()
    };
    assert_eq!(spread(Routing::LeastLoaded), 30);
    assert_eq!(spread(Routing::RoundRobin), 30);
    assert_eq!(spread(Routing::FillFirst), 40);
}

#[test]
fn an_account_that_was_not_ready_does_not_catch_up() {
    let routing = RoutingSettings { strategy: Routing::RoundRobin, ..routing() };
    let (pool, clock) = pool(&[account("a1", None), account("b1", None)], routing);
    let next = || pool.choose(wanted("m")).now_or_never().unwrap().unwrap();
    let lease = next();
    let until = Some(Timestamp::from_unix_ms(1_000));
    lease.record_attempt(&Verdict::RateLimited { until }, of_caller("m"));
    assert!((0..20).all(|_| next().account().name == "b1"));
    clock.advance(1_000);
    let turns = (0..10).filter(|_| next().account().name == "a1").count();
    assert!((5..=6).contains(&turns), "{turns} of 10");
}

#[tokio::test]
async fn waiting_turns_are_served_in_order_and_those_that_leave_are_dropped() {
    let (pool, _) = pool(&[account("a1", Some(1))], routing());
    let first = pool.choose(wanted("m")).await.unwrap();
    let order = Mutex::new(Vec::new());
    let wait = async |n: usize| {
        let lease = pool.choose(wanted("m")).await.unwrap();
        order.lock().unwrap().push(n);
        drop(lease);
    };
    let mut waiting: Vec<_> = (0..10).map(|n| Box::pin(wait(n))).collect();
    assert!(waiting.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
    assert_eq!(pool.queued(), 10);
    drop(waiting.remove(3));
    assert_eq!(pool.queued(), 9);
    drop(first);
    join_all(waiting).await;
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    assert_eq!((in_flight(&pool), pool.queued()), (vec![0], 0));
}

/// The callers of turns that wait for one account, in the order in which they get it.
async fn served(waiting: &[&'static str]) -> Vec<&'static str> {
    let (pool, _) = pool(&[account("a1", Some(1))], routing());
    let first = pool.choose(wanted("m")).await.unwrap();
    let order = Mutex::new(Vec::new());
    let wait = async |caller: &'static str| {
        let lease = pool.choose(Wanted { caller: Some(caller), ..wanted("m") }).await.unwrap();
        order.lock().unwrap().push(caller);
        drop(lease);
    };
    let mut waiting: Vec<_> = waiting.iter().map(|caller| Box::pin(wait(caller))).collect();
    assert!(waiting.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
    drop(first);
    join_all(waiting).await;
    assert_eq!((in_flight(&pool), pool.queued()), (vec![0], 0));
    order.into_inner().unwrap()
}

#[tokio::test]
async fn callers_take_turns_whatever_they_have_waiting() {
    let mut waiting = vec!["a"; 50];
    waiting.extend(["b", "b", "c"]);
    let order = served(&waiting).await;
    assert_eq!(order[..7], ["a", "b", "c", "a", "b", "a", "a"]);
    assert_eq!(order.len(), 53);
}

#[tokio::test]
async fn a_turn_is_served_though_all_before_it_wait_for_another_account() {
    let only = |name: &str| AccountSettings {
        models: vec![ModelPattern::parse(&format!("m-{name}")).unwrap()],
        ..account(name, Some(1))
    };
    let (pool, _) = pool(&[only("a1"), only("b1")], routing());
    let _busy = pool.choose(wanted("m-a1")).await.unwrap();
    let ends = pool.choose(wanted("m-b1")).await.unwrap();
    let of = |caller, model| Wanted { caller: Some(caller), ..wanted(model) };
    let mut waiting: Vec<_> =
        ["m-a1", "m-a1", "m-b1"].map(|model| Box::pin(pool.choose(of("a", model)))).into();
    waiting.push(Box::pin(pool.choose(of("b", "m-a1"))));
    assert!(waiting.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
    drop(ends);
    let mut served: Vec<_> = waiting.iter_mut().map(FutureExt::now_or_never).collect();
    assert_eq!(served.remove(2).unwrap().unwrap().account().name, "b1");
    assert!(served.iter().all(Option::is_none));
    assert_eq!(pool.queued(), 3);
}

#[tokio::test]
async fn a_full_queue_has_room_for_callers_with_fewer_turns_in_it() {
    let (pool, _) = pool(&[account("a1", Some(1))], RoutingSettings { max_queued: 5, ..routing() });
    let _held = pool.choose(wanted("m")).await.unwrap();
    let wait = |caller| Box::pin(pool.choose(Wanted { caller: Some(caller), ..wanted("m") }));
    let is_busy = |outcome: Option<Result<Lease, Shortage>>| matches!(outcome, Some(Err(Shortage::Busy)));
    let mut of_a: Vec<_> = (0..5).map(|_| wait("a")).collect();
    assert!(of_a.iter_mut().all(|turn| turn.now_or_never().is_none()));
    assert!(is_busy(wait("a").now_or_never()), "all of them are its own");
    let mut others = ["b", "b", "c"].map(wait);
    assert!(others.iter_mut().all(|turn| turn.now_or_never().is_none()));
    assert!(is_busy(wait("c").now_or_never()), "it would have as many as a");
    let outcomes: Vec<_> = of_a.iter_mut().map(|turn| is_busy(turn.now_or_never())).collect();
    assert_eq!((outcomes, pool.queued()), (vec![false, false, true, true, true], 5));
}

#[tokio::test]
async fn the_queue_and_the_wait_are_bounded() {
    let routing = RoutingSettings { max_queued: 1, queue_timeout: Duration::from_millis(20), ..routing() };
    let (pool, _) = pool(&[account("a1", Some(1))], routing);
    let _held = pool.choose(wanted("m")).await.unwrap();
    let waiting = pool.choose(wanted("m"));
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(pool.choose(wanted("m")).await.unwrap_err(), Shortage::Busy);
    assert_eq!(waiting.await.unwrap_err(), Shortage::Busy);
}

#[tokio::test]
async fn a_waiting_turn_fails_when_no_account_is_left_to_wait_for() {
    let (pool, _) = pool(&[account("a1", Some(1))], routing());
    let held = pool.choose(wanted("m")).await.unwrap();
    let waiting = pool.choose(wanted("m"));
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    held.record_attempt(&Verdict::CredentialInvalid, of_caller("m"));
    assert_eq!(waiting.await.unwrap_err(), Shortage::Refused);
}

#[tokio::test]
async fn a_waiting_turn_gets_an_account_whose_cooldown_ends() {
    let (pool, clock) = pool(&[account("a1", Some(1)), account("b1", Some(1))], routing());
    let held = pool.choose(wanted("m")).await.unwrap();
    let other = pool.choose(wanted("m")).await.unwrap();
    let until = Some(Timestamp::from_unix_ms(20));
    other.record_attempt(&Verdict::RateLimited { until }, of_caller("m"));
    drop(other);
    let waiting = pool.choose(wanted("m"));
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    clock.advance(20);
    assert_ne!(waiting.await.unwrap().account().name, held.account().name);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_turn_gets_an_account_whose_cooldown_began_and_ended_meanwhile() {
    let (pool, clock) = pool(&[account("a1", Some(1))], routing());
    let held = pool.choose(wanted("m")).await.unwrap();
    let waiting = pool.choose(wanted("m"));
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    let until = Some(Timestamp::from_unix_ms(20));
    held.record_attempt(&Verdict::RateLimited { until }, of_caller("m"));
    drop(held);
    assert!(waiting.as_mut().now_or_never().is_none());
    clock.advance(20);
    waiting.await.unwrap();
}

#[test]
fn an_account_that_serves_less_than_the_failing_one_is_no_alternative() {
    use Operation::{ChatCompletion, Embed};
    use Verdict::{EndpointMissing, ModelMissing};
    // What the failing account and the other one lack, and whether the failing one cools down.
    for (lacks, other_lacks, cools_down) in [
        (vec![], vec![], true),
        (vec![(Embed, EndpointMissing)], vec![], true),
        (vec![], vec![(Embed, EndpointMissing)], false),
        (vec![], vec![(Embed, ModelMissing)], false),
        (vec![(Embed, EndpointMissing)], vec![(Embed, EndpointMissing)], true),
        (vec![(Embed, EndpointMissing)], vec![(Embed, ModelMissing)], true),
        (vec![(ChatCompletion, ModelMissing)], vec![(Embed, ModelMissing)], false),
    ] {
        let (pool, clock) = pool(&[account("a1", None), account("b1", None)], routing());
        let lease = |name| pool.lease_of(name).unwrap();
        for (name, lacked) in [("a1", &lacks), ("b1", &other_lacks)] {
            for (operation, verdict) in lacked {
                lease(name).record_attempt(verdict, Wanted { operation: *operation, ..wanted("m") });
            }
        }
        for _ in 0..3 {
            lease("a1").record_attempt(&Verdict::Failed, wanted("m"));
        }
        let state = pool.view()[0].state.label(clock.now());
        assert_eq!(state == "cooling", cools_down, "{lacks:?} {other_lacks:?}");
    }
}
