//! Background turns: leases, the log of events, and their end.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::ResponseId;
use antiphon_store::{
    Abandoned, Appended, BackgroundEnd, BackgroundRequest, BackgroundResult, BackgroundStatus, Claimable,
    EventChunk, NewBackgroundTurn, QueueLimits, Replica, Reservation, Status, Store, TurnLease, UpstreamTurn,
};
use bytes::Bytes;
use uuid::Uuid;

use crate::fixture::{Fixture, NOW, after, id, log_row, project, record};
use crate::limits::{counters_of, of, reservation, settlement, usual_holds};

const ONE: Uuid = Uuid::from_u128(1);
const TWO: Uuid = Uuid::from_u128(2);

fn chunk(first: u64, last: u64) -> EventChunk {
    EventChunk { first, last, bytes: Bytes::from(format!("{first} to {last}")) }
}

/// Owned by the first replica until a minute from now.
pub(crate) fn queued(n: u64) -> NewBackgroundTurn {
    NewBackgroundTurn {
        lease: TurnLease { project: project("p"), id: id(n), owner: ONE, epoch: 1 },
        lease_until: after(60),
        is_streamed: true,
        hides_reasoning: true,
        is_stored: true,
        key: Some("key_1".into()),
        created_at: NOW,
        deadline: after(3_600),
        request: BackgroundRequest {
            body: Bytes::from_static(b"{\"model\":\"m\"}"),
            headers: r#"[["session-id","s"]]"#.into(),
            input: None,
        },
        response: Bytes::from_static(b"{\"status\":\"queued\"}"),
        event: Some(chunk(0, 0)),
        lock: None,
    }
}

pub(crate) fn limits(turns: u64) -> QueueLimits {
    QueueLimits { turns, bytes: u64::MAX }
}

async fn queue(store: &Arc<dyn Store>, n: u64) -> TurnLease {
    let turn = queued(n);
    let lease = turn.lease.clone();
    assert!(store.queue_background(turn, limits(100)).await.unwrap());
    lease
}

pub(crate) fn end(lease: &TurnLease, n: u64, status: Status) -> BackgroundEnd {
    let mut record = record(n, None);
    record.response.turn.status = status;
    BackgroundEnd {
        lease: lease.clone(),
        at: after(9),
        status,
        kept_until: after(100),
        events: Some(chunk(5, 6)),
        result: BackgroundResult::Stored(Box::new(record)),
        unlocks: None,
    }
}

pub(crate) async fn status(store: &Arc<dyn Store>, of: ResponseId) -> Option<BackgroundStatus> {
    store.load_background(&project("p"), of).await.unwrap().map(|turn| turn.status)
}

/// All events after a number, however many the store lists at once.
async fn logged(store: &Arc<dyn Store>, n: u64, mut after: Option<u64>) -> Vec<(u64, u64)> {
    let mut numbers = Vec::new();
    loop {
        let chunks = store.list_events(&project("p"), id(n), after).await.unwrap();
        let Some(last) = chunks.last() else { return numbers };
        after = Some(last.last);
        assert!(chunks.iter().all(|found| *found == chunk(found.first, found.last)));
        numbers.extend(chunks.iter().map(|chunk| (chunk.first, chunk.last)));
    }
}

pub(crate) async fn a_queued_turn_comes_back_unchanged(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.load_background(&project("p"), id(1)).await.unwrap(), None);
    let new = queued(1);
    let shown = NewBackgroundTurn { hides_reasoning: false, ..queued(3) };
    let mut bare = NewBackgroundTurn { is_streamed: false, is_stored: false, key: None, ..queued(2) };
    bare.hides_reasoning = false;
    bare.event = None;
    bare.request.input = Some(Bytes::from_static(b"[1]"));
    for new in [new, shown, bare] {
        assert!(store.queue_background(new.clone(), limits(10)).await.unwrap());
        let found = store.load_background(&project("p"), new.lease.id).await.unwrap().unwrap();
        assert_eq!((found.lease.clone(), found.lease_until), (new.lease.clone(), new.lease_until));
        assert_eq!((found.is_streamed, found.is_stored), (new.is_streamed, new.is_stored));
        assert_eq!(found.hides_reasoning, new.hides_reasoning);
        assert_eq!(found.response().unwrap(), &new.response);
        assert_eq!(found.key, new.key);
        assert_eq!((found.created_at, found.deadline), (new.created_at, new.deadline));
        assert_eq!((found.status, found.attempts), (BackgroundStatus::Queued, 0));
        assert_eq!((found.last_sequence, found.ended_at), (new.event.map(|event| event.last), None));
        let request = store.load_background_request(&project("p"), new.lease.id, NOW).await.unwrap();
        assert_eq!(request, Some(new.request));
    }
    assert_eq!(store.load_background(&project("q"), id(1)).await.unwrap(), None);
    assert_eq!(store.load_background_request(&project("q"), id(1), NOW).await.unwrap(), None);
}

pub(crate) async fn a_project_has_so_many_queued_turns_at_most(fixture: impl Fixture) {
    let store = fixture.open().await;
    let lease = queue(&store, 1).await;
    queue(&store, 2).await;
    assert!(!store.queue_background(queued(3), limits(2)).await.unwrap());
    assert_eq!(status(&store, id(3)).await, None);
    assert!(logged(&store, 3, None).await.is_empty());
    let mut elsewhere = queued(3);
    elsewhere.lease.project = project("q");
    assert!(store.queue_background(elsewhere, limits(2)).await.unwrap());
    // Running turns do not count.
    assert!(store.begin_background(&lease).await.unwrap());
    assert!(store.queue_background(queued(3), limits(2)).await.unwrap());
}

pub(crate) async fn a_project_has_so_many_queued_bytes_at_most(fixture: impl Fixture) {
    let store = fixture.open().await;
    let turn = |n| {
        let mut turn = queued(n);
        turn.request.body = vec![b'x'; 1_000].into();
        turn.request.input = Some(vec![b'y'; 500].into());
        turn
    };
    let up_to = |bytes| QueueLimits { turns: 100, bytes };
    assert!(store.queue_background(turn(1), up_to(10)).await.unwrap(), "it is the only one");
    let lease = turn(1).lease;
    let size = store.load_background(&lease.project, lease.id).await.unwrap().unwrap().size_bytes;
    assert!((1_500..2_000).contains(&size), "{size}");
    assert!(!store.queue_background(turn(2), up_to(2 * size - 1)).await.unwrap());
    assert!(store.queue_background(turn(2), up_to(2 * size)).await.unwrap());
    let mut elsewhere = turn(3);
    elsewhere.lease.project = project("q");
    assert!(store.queue_background(elsewhere, up_to(size)).await.unwrap());
    // Running turns do not count.
    assert!(store.begin_background(&lease).await.unwrap());
    assert!(!store.queue_background(turn(3), up_to(2 * size - 1)).await.unwrap());
    assert!(store.queue_background(turn(3), up_to(2 * size)).await.unwrap());
}

pub(crate) async fn a_lost_lease_writes_nothing(fixture: impl Fixture) {
    let store = fixture.open().await;
    let old = queue(&store, 1).await;
    let claimed =
        store.claim_background(&old, TWO, Claimable::Expired, (after(60), after(90))).await.unwrap();
    let lease = claimed.unwrap();
    assert_eq!((lease.owner, lease.epoch), (TWO, 2));
    assert!(!store.begin_background(&old).await.unwrap());
    assert!(!store.append_events(&old, chunk(1, 1)).await.unwrap());
    assert!(!store.release_lease(&old).await.unwrap());
    let upstream = UpstreamTurn { account: "a".into(), id: Some("resp_up".into()) };
    assert!(!store.set_upstream_turn(&old, upstream.clone()).await.unwrap());
    assert_eq!(store.end_background(end(&old, 1, Status::Completed)).await.unwrap(), None);
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), None);
    assert!(store.list_log(9).await.unwrap().is_empty());
    assert_eq!(logged(&store, 1, None).await, [(0, 0)]);
    assert_eq!(status(&store, id(1)).await, Some(BackgroundStatus::Queued));
    assert!(store.begin_background(&lease).await.unwrap());
    for upstream in [upstream, UpstreamTurn { account: "b".into(), id: None }] {
        assert!(store.set_upstream_turn(&lease, upstream.clone()).await.unwrap());
        let found = store.load_background(&project("p"), id(1)).await.unwrap().unwrap();
        assert_eq!((found.upstream, found.attempts), (Some(upstream), 1));
    }
}

pub(crate) async fn an_expired_lease_is_claimed_once(fixture: impl Fixture) {
    let store = fixture.open().await;
    let lease = queue(&store, 1).await;
    let listed = async |which, now| store.list_claimable(TWO, which, now, 9).await.unwrap();
    assert_eq!(listed(Claimable::Expired, after(59)).await, []);
    assert_eq!(listed(Claimable::NotOwn, NOW).await, std::slice::from_ref(&lease));
    assert_eq!(store.list_claimable(ONE, Claimable::NotOwn, NOW, 9).await.unwrap(), []);
    assert_eq!(listed(Claimable::Expired, after(60)).await, std::slice::from_ref(&lease));
    // It was renewed after it had been listed.
    store.renew_leases(ONE, after(80)).await.unwrap();
    let claim = async |owner, now| {
        store.claim_background(&lease, owner, Claimable::Expired, (now, after(200))).await.unwrap()
    };
    assert_eq!(claim(TWO, after(79)).await, None);
    assert!(store.release_lease(&lease).await.unwrap());
    assert_eq!(listed(Claimable::Expired, NOW).await, std::slice::from_ref(&lease));
    let (one, two) = tokio::join!(claim(ONE, NOW), claim(TWO, NOW));
    assert_eq!(one.iter().chain(&two).count(), 1);
    assert_eq!(claim(TWO, after(500)).await, None, "the epoch has grown");
    let of_two = queue(&store, 2).await;
    let claimed = store.claim_background(&of_two, TWO, Claimable::NotOwn, (NOW, after(200))).await.unwrap();
    assert!(claimed.is_some(), "before it expires");
}

pub(crate) async fn a_released_lease_is_not_renewed(fixture: impl Fixture) {
    let store = fixture.open().await;
    let (released, kept) = (queue(&store, 1).await, queue(&store, 2).await);
    assert!(store.release_lease(&released).await.unwrap());
    store.renew_leases(ONE, after(80)).await.unwrap();
    let listed = async |now| store.list_claimable(TWO, Claimable::Expired, now, 9).await.unwrap();
    assert_eq!(listed(NOW).await, std::slice::from_ref(&released));
    let term = (NOW, after(70));
    let claimed = store.claim_background(&released, ONE, Claimable::Expired, term).await.unwrap().unwrap();
    store.renew_leases(ONE, after(90)).await.unwrap();
    assert_eq!(listed(after(89)).await, [], "once it is claimed, it is renewed");
    assert_eq!(listed(after(90)).await, [claimed, kept]);
}

pub(crate) async fn an_owner_lists_its_turns_until_they_end(fixture: impl Fixture) {
    let store = fixture.open().await;
    let mut leases = Vec::new();
    for n in 1..=4 {
        leases.push(queue(&store, n).await);
    }
    let term = (NOW, after(200));
    let third = store.claim_background(&leases[2], TWO, Claimable::NotOwn, term).await.unwrap().unwrap();
    assert!(store.end_background(end(&leases[1], 2, Status::Completed)).await.unwrap().is_some());
    let listed = async |owner, after, max_rows| store.list_owned(owner, after, max_rows).await.unwrap();
    assert_eq!(listed(ONE, None, 9).await, [leases[0].clone(), leases[3].clone()]);
    assert_eq!(listed(ONE, None, 1).await, [leases[0].clone()]);
    assert_eq!(listed(ONE, Some(leases[0].id), 9).await, [leases[3].clone()]);
    assert_eq!(listed(TWO, None, 9).await, [third]);
}

pub(crate) async fn the_log_comes_back_in_order_and_from_any_number(fixture: impl Fixture) {
    let store = fixture.open().await;
    let lease = queue(&store, 1).await;
    for (first, last) in [(1, 4), (5, 5), (9, 70)] {
        assert!(store.append_events(&lease, chunk(first, last)).await.unwrap());
    }
    // After a deadline the owner does not know whether it was written.
    assert!(store.append_events(&lease, chunk(9, 70)).await.unwrap());
    assert_eq!(logged(&store, 1, None).await, [(0, 0), (1, 4), (5, 5), (9, 70)]);
    assert_eq!(logged(&store, 1, Some(0)).await, [(1, 4), (5, 5), (9, 70)]);
    assert_eq!(logged(&store, 1, Some(2)).await, [(1, 4), (5, 5), (9, 70)]);
    assert_eq!(logged(&store, 1, Some(5)).await, [(9, 70)]);
    assert_eq!(logged(&store, 1, Some(70)).await, []);
    let found = store.load_background(&project("p"), id(1)).await.unwrap().unwrap();
    assert_eq!(found.last_sequence, Some(70));
    for n in 71..140 {
        assert!(store.append_events(&lease, chunk(n, n)).await.unwrap());
    }
    let numbers = logged(&store, 1, None).await;
    assert_eq!(numbers.len(), 4 + 69);
    assert!(numbers.is_sorted());
}

pub(crate) async fn an_ended_turn_and_its_record_are_one_transaction(fixture: impl Fixture) {
    let store = fixture.open().await;
    let lease = queue(&store, 1).await;
    assert!(
        store.reserve(Reservation { replica: ONE, ..reservation(1, usual_holds()) }).await.unwrap().is_held
    );
    let mut ending = end(&lease, 1, Status::Completed);
    let BackgroundResult::Stored(record) = &mut ending.result else { unreachable!() };
    record.settlement = Some(settlement(1, 1, 30));
    assert_eq!(store.end_background(ending).await.unwrap(), Some(Appended::Done));
    let stored = store.load(&project("p"), id(1), NOW).await.unwrap().unwrap();
    assert_eq!(stored.turn.status, Status::Completed);
    assert_eq!(store.list_log(9).await.unwrap().len(), 1);
    assert_eq!(counters_of(&store, "key:k").await, of(&[("requests", 1, 0), ("tokens", 30, 0)]));
    let found = store.load_background(&project("p"), id(1)).await.unwrap().unwrap();
    assert_eq!(found.status, BackgroundStatus::Ended(Status::Completed));
    assert_eq!((found.ended_at, found.kept_until), (Some(after(9)), Some(after(100))));
    assert_eq!((found.last_sequence, &found.response().unwrap()[..]), (Some(6), &b""[..]));
    assert_eq!(store.load_background_request(&project("p"), id(1), NOW).await.unwrap(), None);
    assert_eq!(logged(&store, 1, Some(0)).await, [(5, 6)]);
    // A response that the store refuses keeps its turn running.
    let other = queue(&store, 2).await;
    let mut refused = end(&other, 1, Status::Completed);
    refused.lease = other.clone();
    assert!(store.end_background(refused).await.is_err());
    assert_eq!(status(&store, id(2)).await, Some(BackgroundStatus::Queued));
    assert!(!store.purge_background(after(99), 9).await.unwrap());
    assert!(store.purge_background(after(100), 9).await.unwrap());
    assert_eq!((status(&store, id(1)).await, logged(&store, 1, None).await), (None, Vec::new()));
    assert!(status(&store, id(2)).await.is_some());
}

pub(crate) async fn one_of_two_ends_wins(fixture: impl Fixture) {
    let store = fixture.open().await;
    let lease = queue(&store, 1).await;
    let ends =
        [Status::Completed, Status::Cancelled].map(|status| store.end_background(end(&lease, 1, status)));
    let [one, two] = ends;
    let (completed, cancelled) = tokio::join!(one, two);
    let (completed, cancelled) = (completed.unwrap().is_some(), cancelled.unwrap().is_some());
    assert!(completed != cancelled);
    let stored = store.load(&project("p"), id(1), NOW).await.unwrap().unwrap();
    assert_eq!(stored.turn.status == Status::Completed, completed);
    assert_eq!(status(&store, id(1)).await, Some(BackgroundStatus::Ended(stored.turn.status)));
    assert_eq!(store.list_log(9).await.unwrap().len(), 1);
    assert_eq!(store.end_background(end(&lease, 1, Status::Failed)).await.unwrap(), None);
    assert!(!store.append_events(&lease, chunk(7, 7)).await.unwrap());
    assert!(!store.request_cancel(&project("p"), id(1)).await.unwrap());
    assert!(store.list_claimable(TWO, Claimable::NotOwn, after(900), 9).await.unwrap().is_empty());
}

pub(crate) async fn an_unstored_response_is_kept_for_a_while(fixture: impl Fixture) {
    let store = fixture.open().await;
    let turn = NewBackgroundTurn { is_stored: false, ..queued(1) };
    let lease = turn.lease.clone();
    assert!(store.queue_background(turn, limits(1)).await.unwrap());
    let result = BackgroundResult::Kept {
        response: Bytes::from_static(b"{\"status\":\"completed\"}"),
        log: Box::new(log_row("p", id(1), NOW)),
        settlement: None,
    };
    let ending = BackgroundEnd { result, events: None, ..end(&lease, 1, Status::Completed) };
    assert_eq!(store.end_background(ending).await.unwrap(), Some(Appended::Done));
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), None);
    let found = store.load_background(&project("p"), id(1)).await.unwrap().unwrap();
    assert_eq!(&found.response().unwrap()[..], b"{\"status\":\"completed\"}");
    let request = async |now| {
        let request = store.load_background_request(&project("p"), id(1), now).await.unwrap();
        request.map(|request| request.body)
    };
    assert_eq!(request(after(99)).await, Some(queued(1).request.body), "its input items can be read");
    assert_eq!(request(after(100)).await, None);
    assert_eq!((found.last_sequence, store.list_log(9).await.unwrap().len()), (Some(0), 1));
    assert!(!store.hide_background(&project("q"), id(1), after(20)).await.unwrap());
    assert!(store.hide_background(&project("p"), id(1), after(20)).await.unwrap());
    assert!(!store.hide_background(&project("p"), id(1), after(21)).await.unwrap());
    let found = store.load_background(&project("p"), id(1)).await.unwrap().unwrap();
    assert_eq!((found.kept_until, logged(&store, 1, None).await), (Some(after(20)), vec![(0, 0)]));
    assert!(store.purge_background(after(20), 9).await.unwrap());
    assert_eq!((status(&store, id(1)).await, logged(&store, 1, None).await), (None, Vec::new()));
}

pub(crate) async fn a_cancellation_reaches_the_owner(fixture: impl Fixture) {
    let store = fixture.open().await;
    let lease = queue(&store, 1).await;
    queue(&store, 2).await;
    assert!(store.list_cancel_requested(ONE).await.unwrap().is_empty());
    assert!(!store.request_cancel(&project("q"), id(1)).await.unwrap());
    assert!(store.request_cancel(&project("p"), id(1)).await.unwrap());
    assert_eq!(store.list_cancel_requested(ONE).await.unwrap(), [id(1)]);
    assert!(store.list_cancel_requested(TWO).await.unwrap().is_empty());
    assert!(!store.hide_background(&project("p"), id(1), NOW).await.unwrap(), "it runs");
    assert_eq!(store.end_background(end(&lease, 1, Status::Cancelled)).await.unwrap(), Some(Appended::Done));
    assert!(store.list_cancel_requested(ONE).await.unwrap().is_empty());
}

pub(crate) async fn the_reservation_of_a_background_turn_outlives_its_owner(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.beat(ONE, NOW).await.unwrap();
    for n in [1, 2] {
        let reservation = Reservation { replica: ONE, ..reservation(n, usual_holds()) };
        assert!(store.reserve(reservation).await.unwrap().is_held);
    }
    let lease = queue(&store, 1).await;
    let dead = Abandoned::Of(Replica { id: ONE, beats: 1 });
    assert_eq!(store.sweep(dead, after(1), 9).await.unwrap(), 1, "only that of the other turn");
    assert_eq!(store.sweep(Abandoned::NotOf(TWO), after(1), 9).await.unwrap(), 0);
    assert_eq!(counters_of(&store, "key:k").await, of(&[("requests", 0, 1), ("tokens", 0, 100)]));
    let claimed =
        store.claim_background(&lease, TWO, Claimable::NotOwn, (NOW, NOW.plus(Duration::from_secs(9))));
    let lease = claimed.await.unwrap().unwrap();
    let mut ending = end(&lease, 1, Status::Failed);
    let BackgroundResult::Stored(record) = &mut ending.result else { unreachable!() };
    record.settlement = Some(settlement(1, 1, 12));
    assert_eq!(store.end_background(ending).await.unwrap(), Some(Appended::Done));
    assert_eq!(counters_of(&store, "key:k").await, of(&[("requests", 1, 0), ("tokens", 12, 0)]));
}
