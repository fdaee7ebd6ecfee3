//! Background responses that the upstream itself runs survive the death of their gateway.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Process, Setup};

use crate::background::{EVENTS, Store, body, ended, events_until_a_kill, read_on, setup};
use crate::binary;

/// What the upstream does about a response while its gateway is dead.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    GoesOn,
    /// It goes on, but its events can't be read again.
    CanOnlyBePolled,
    Forgets,
}

// === impl Meanwhile ===

impl Meanwhile {
    const ALL: [Self; 3] = [Self::GoesOn, Self::CanOnlyBePolled, Self::Forgets];

    fn happen(self, upstream: &Simulator) {
        match self {
            Self::GoesOn => {}
            Self::CanOnlyBePolled => upstream.refuse_resuming(),
            Self::Forgets => upstream.forget_background(),
        }
    }

    fn status(self) -> &'static str {
        if let Self::Forgets = self { "failed" } else { "completed" }
    }

    /// After which events of the upstream the gateway is killed: all, where that is what matters.
    fn kills(self) -> Vec<usize> {
        if let Self::GoesOn = self { (1..EVENTS).collect() } else { vec![2, 6] }
    }
}

async fn native(store: Store) -> (Simulator, Setup) {
    let upstream = Simulator::bind(Options { background: true, ..Options::default() }).await.unwrap();
    let setup = setup(&upstream, store).await.account(0, "background = \"native\"");
    (upstream, setup)
}

async fn a_streamed_turn_is_read_on(store: Store) {
    for meanwhile in Meanwhile::ALL {
        for events in meanwhile.kills() {
            let (upstream, setup) = native(store).await;
            // Whoever has seen the second event knows that the upstream's id is stored.
            let last = events.max(2) as u64 - 1;
            let (seen, gate) = events_until_a_kill(&setup, &upstream, last).await;
            meanwhile.happen(&upstream);
            gate.open();
            let events = read_on(&setup, seen).await;
            let end = events.last().unwrap().json();
            assert_eq!(end["response"]["status"], meanwhile.status(), "{meanwhile:?} after {last}: {end}");
            assert_eq!(upstream.counts().requests, 1, "nothing is paid twice");
            if let Meanwhile::GoesOn = meanwhile {
                assert_eq!(events.len(), EVENTS, "all of the upstream's");
            }
        }
    }
}

async fn a_polled_turn_is_read_on(store: Store) {
    for meanwhile in Meanwhile::ALL {
        for events in meanwhile.kills() {
            let (upstream, setup) = native(store).await;
            let (script, gate) = Script::answer("a b c d").gated_after(events);
            upstream.script(script);
            let gateway = Process::start(binary(), &setup).await;
            let id = gateway.client.create(body(false)).await.ok_id();
            gate.arrived(1).await;
            gateway.kill().await;
            meanwhile.happen(&upstream);
            gate.open();
            let gateway = Process::start(binary(), &setup).await;
            let response = ended(&gateway.client, &id).await;
            // If it died before the upstream's id was stored, the turn is run again.
            let is_run_again = upstream.counts().requests == 2;
            let expected = if is_run_again { "completed" } else { meanwhile.status() };
            assert_eq!(response["status"], expected, "{meanwhile:?} after {events}: {response}");
            gateway.kill().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_turn_is_read_on_after_a_kill() {
    a_streamed_turn_is_read_on(Store::File).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_turn_is_read_on_after_a_kill_of_its_replica() {
    a_streamed_turn_is_read_on(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polled_turn_is_read_on_after_a_kill() {
    a_polled_turn_is_read_on(Store::File).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polled_turn_is_read_on_after_a_kill_of_its_replica() {
    a_polled_turn_is_read_on(Store::Postgres).await;
}
