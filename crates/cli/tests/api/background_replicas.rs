//! Background responses over one PostgreSQL database, with several gateways.

use antiphon_simulator::upstream::{Gate, Script, Simulator};
use antiphon_store::Claimable;
use antiphon_testkit::{Event, Fault, Faults, Gateway, Postgres, Setup, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::background::{body, cancel, ended, in_progress, path, queue};
use crate::simulator;

async fn two_replicas(config: &str) -> (Simulator, [Gateway; 2]) {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let start = || Setup::over(&upstream).database_url(&url).config(config).start();
    let (one, two) = tokio::join!(start(), start());
    (upstream, [one, two])
}

fn streamed() -> Value {
    let mut request = body("x");
    request["stream"] = json!(true);
    request
}

fn raw(events: &[Event]) -> Vec<u8> {
    events.iter().flat_map(|event| event.raw.to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_events_are_read_on_any_replica_while_they_come() {
    let (upstream, [one, two]) = two_replicas("").await;
    let (script, gate) = Script::answer("word ".repeat(100)).deltas(100).gated_after(4);
    upstream.script(script);
    let mut creator = one.client.stream(streamed()).await;
    let first = creator.next().await.unwrap();
    let id = first.response_id();
    let follow = async |after: u64| {
        two.client.follow(&format!("{}?stream=true&starting_after={after}", path(&id))).await
    };
    let (mut reader, mut one_ahead) = (follow(0).await, follow(20).await);
    assert_eq!(reader.next().await.unwrap().name, "response.in_progress");
    let mut one_more = follow(0).await;
    gate.open();
    let (of_creator, of_reader) = tokio::join!(creator.rest(), reader.rest());
    assert!(raw(&of_creator[1..]) == raw(&of_reader));
    assert_eq!(of_reader.last().unwrap().name, "response.completed");
    assert!(raw(&one_more.rest().await) == raw(&of_creator));
    assert!(raw(&one_ahead.rest().await) == raw(&of_creator[20..]));
    for replica in [&one, &two] {
        assert_eq!(replica.client.get(&path(&id)).await.ok()["status"], "completed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_is_cancelled_and_deleted_from_any_replica() {
    let (upstream, [one, two]) = two_replicas("").await;
    upstream.always(Script::answer("a b c d").hang_after(6));
    let id = queue(&one, &body("x")).await;
    in_progress(&two.client, &id).await;
    let cancelled = cancel(&two.client, &id).await.ok();
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(one.client.get(&path(&id)).await.ok(), cancelled);
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;

    let mut events = one.client.stream(streamed()).await;
    let id = events.next().await.unwrap().response_id();
    let mut reader = two.client.follow(&format!("{}?stream=true", path(&id))).await;
    two.client.delete(&path(&id)).await.ok();
    for events in [&mut events, &mut reader] {
        let last = events.rest().await.pop().unwrap();
        assert_eq!(last.json()["response"]["status"], "cancelled");
    }
    for replica in [&one, &two] {
        assert_eq!(replica.client.get(&path(&id)).await.refusal(), (404, None, None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_hands_its_turns_over_at_once() {
    let config = "background.lease = \"18s\"\ntimeouts.shutdown = \"100ms\"\nbackground.max_running = 1";
    let (upstream, [one, two]) = two_replicas(config).await;
    let (script, gate) = Script::answer("a b c d").gated();
    upstream.script(script);
    let running = queue(&one, &body("running")).await;
    gate.arrived(1).await;
    let queued = queue(&one, &body("queued")).await;
    one.stop().await;
    for id in [&running, &queued] {
        assert_eq!(ended(&two.client, id).await["status"], "completed");
    }
    assert_eq!(two.client.metric("antiphon_background_taken_over_total").await, 2);
    let rows = two.logged(2).await;
    assert!(rows.iter().all(|row| &*row.outcome == "completed"), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_which_only_its_start_and_other_events_were_logged_is_run_again() {
    let config = "background.lease = \"18s\"\ntimeouts.shutdown = \"100ms\"";
    let (upstream, [one, two]) = two_replicas(config).await;
    let limits = "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\"}\n\n";
    let (script, gate) = Script::answer("a b").inject(0, limits).gated_after(2);
    upstream.script(script);
    let mut events = one.client.stream(streamed()).await;
    let begun = [events.next().await.unwrap(), events.next().await.unwrap(), events.next().await.unwrap()];
    let id = begun.iter().find(|event| event.name == "response.created").unwrap().response_id();
    gate.arrived(1).await;
    one.stop().await;
    assert_eq!(ended(&two.client, &id).await["status"], "completed");
    assert_eq!(upstream.counts().requests, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_stay_with_a_turn_that_goes_to_another_replica() {
    let config = "background.lease = \"3s\"\ntimeouts.shutdown = \"100ms\"";
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let start = || Setup::over(&upstream).database_url(&url).config(config).start();
    let (one, two, three) = tokio::join!(start(), start(), start());
    let (script, gate) = Script::answer("word ".repeat(100)).deltas(100).gated();
    upstream.script(script.clone()).script(script);
    let id = one.client.stream(streamed()).await.next().await.unwrap().response_id();
    gate.arrived(1).await;
    let resume = format!("{}?stream=true", path(&id));
    let mut readers = [two.client.follow(&resume).await, three.client.follow(&resume).await];
    for reader in &mut readers {
        assert_eq!(reader.next().await.unwrap().name, "response.created");
    }
    one.stop().await;
    gate.open();
    let [of_two, of_three] = &mut readers;
    let (of_two, of_three) = tokio::join!(of_two.rest(), of_three.rest());
    assert!(raw(&of_two) == raw(&of_three));
    assert_eq!(of_two.last().unwrap().name, "response.completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continuation_on_another_replica_waits_for_its_parent() {
    let (upstream, [one, two]) = two_replicas("").await;
    let (script, gate) = Script::answer("first").gated();
    upstream.script(script);
    let id = queue(&one, &body("x")).await;
    let on = json!({"model": "sim", "input": "on", "previous_response_id": id});
    assert_eq!(two.client.create(&on).await.refusal().0, 409);
    let (continued, ()) = tokio::join!(two.client.create(&on), async { gate.open() });
    // On a machine that stands still in between, the parent ends too late for it.
    if continued.status != 200 {
        assert_eq!(continued.refusal().0, 409);
        ended(&two.client, &id).await;
        two.client.created(&on).await;
    }
}

#[tokio::test]
async fn a_turn_whose_end_is_stored_but_not_confirmed_counts_once() {
    let (upstream, faults) = (simulator().await, Faults::default());
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    faults.set(Fault::LosesReplies("end_background"));
    let id = queue(&gateway, &body("x")).await;
    assert_eq!(ended(&gateway.client, &id).await["status"], "completed");
    faults.set(Fault::None);
    let counted = r#"antiphon_turns_total{transport="background",outcome="completed"} 1"#;
    let is_counted = async || gateway.client.metrics().await.lines().any(|line| line == counted);
    eventually("the turn is counted", is_counted).await;
    gateway.logged(1).await;
}

#[tokio::test]
async fn a_turn_that_could_not_begin_at_first_counts_once_as_it_ended() {
    let (upstream, faults) = (simulator().await, Faults::default());
    let gateway = Setup::over(&upstream).config("background.lease = \"3s\"").faults(&faults).start().await;
    upstream.script(Script::answer("done").usage(10, 5));
    faults.set(Fault::Fails("begin_background"));
    let id = queue(&gateway, &body("x")).await;
    let is_left = async || {
        let (store, now) = (gateway.app.chains.store(), gateway.app.env.clock.now());
        !store.list_claimable(Uuid::nil(), Claimable::Expired, now, 9).await.unwrap().is_empty()
    };
    eventually("the turn is left", is_left).await;
    faults.set(Fault::None);
    assert_eq!(ended(&gateway.client, &id).await["status"], "completed");
    let row = gateway.logged(1).await.pop().unwrap();
    assert_eq!((&*row.outcome, row.input_tokens, row.output_tokens), ("completed", 10, 5));
    let is_counted = async || {
        let metrics = gateway.client.metrics().await;
        let turns = metrics.lines().filter(|line| line.starts_with("antiphon_turns_total{"));
        turns.eq([r#"antiphon_turns_total{transport="background",outcome="completed"} 1"#])
    };
    eventually("one turn is counted", is_counted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_ends_while_another_replica_looks_for_it_is_found() {
    let (upstream, faults) = (simulator().await, Faults::default());
    let url = Postgres::shared_database().await;
    let setup = || Setup::over(&upstream).database_url(&url);
    let (one, two) = tokio::join!(setup().start(), setup().faults(&faults).start());
    let begin = async || {
        let (script, gate) = Script::answer("first").gated();
        upstream.script(script);
        let id = queue(&one, &body("x")).await;
        gate.arrived(1).await;
        (id, gate)
    };
    let end = async |id: &str, gate: Gate| {
        eventually("the other replica looks for it", async || faults.waiting() == 1).await;
        gate.open();
        ended(&one.client, id).await;
        faults.set(Fault::None);
    };

    let (id, gate) = begin().await;
    faults.set(Fault::Waits("load_background"));
    let on = json!({"model": "sim", "input": "on", "previous_response_id": id});
    let (continued, ()) = tokio::join!(two.client.create(&on), end(&id, gate));
    assert_eq!(continued.ok()["previous_response_id"], id);

    let (id, gate) = begin().await;
    faults.set(Fault::Waits("load_background_request"));
    let items = format!("{}/input_items", path(&id));
    let (items, ()) = tokio::join!(two.client.get(&items), end(&id, gate));
    assert_eq!(items.ok()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_stays_with_its_owner_when_the_database_was_away_for_longer_than_its_lease() {
    let (upstream, url) = (simulator().await, Postgres::shared_database().await);
    let (of_one, of_two) = (Faults::default(), Faults::default());
    let start = |faults| {
        Setup::over(&upstream).database_url(&url).config("background.lease = \"9s\"").faults(faults).start()
    };
    let (one, two) = tokio::join!(start(&of_one), start(&of_two));
    let (script, gate) = Script::answer("a b c d").gated();
    upstream.script(script);
    let id = queue(&one, &body("x")).await;
    gate.arrived(1).await;
    of_one.set(Fault::Fails("renew_leases"));
    of_two.set(Fault::Down);
    let leases = async |which| {
        let (store, now) = (one.app.chains.store(), one.app.env.clock.now());
        store.list_claimable(Uuid::nil(), which, now, 9).await.unwrap()
    };
    eventually("the lease expires", async || !leases(Claimable::Expired).await.is_empty()).await;
    of_one.set(Fault::None);
    of_two.set(Fault::None);
    eventually("the lease is renewed", async || leases(Claimable::Expired).await.is_empty()).await;
    assert_eq!(leases(Claimable::NotOwn).await[0].owner, one.app.background.owner);
    gate.open();
    assert_eq!(ended(&two.client, &id).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_turn_was_taken_over_closes_its_request() {
    let (upstream, url) = (simulator().await, Postgres::shared_database().await);
    let (of_one, of_two) = (Faults::default(), Faults::default());
    let start = |faults| {
        Setup::over(&upstream).database_url(&url).config("background.lease = \"3s\"").faults(faults).start()
    };
    let (one, two) = tokio::join!(start(&of_one), start(&of_two));
    upstream.script(Script::answer("a b c d").hang_after(4)).script(Script::answer("again"));
    of_one.set(Fault::Fails("renew_leases"));
    let id = queue(&one, &body("x")).await;
    let taken_over = ended(&two.client, &id).await;
    assert_eq!(taken_over["output"][0]["content"][0]["text"], "again");
    assert_eq!((upstream.aborted(), one.client.metric("antiphon_background_running").await), (0, 1));
    of_one.set(Fault::None);
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    one.idle().await;
    assert_eq!(one.client.metric("antiphon_background_running").await, 0);
    assert_eq!(one.client.get(&path(&id)).await.ok(), taken_over);
    assert_eq!(upstream.counts().requests, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_cannot_be_taken_over_keeps_no_other_waiting() {
    let config = "background.lease = \"3s\"\ntimeouts.shutdown = \"100ms\"";
    let (upstream, url) = (simulator().await, Postgres::shared_database().await);
    let start = || Setup::over(&upstream).database_url(&url).config(config).start();
    let (one, two) = tokio::join!(start(), start());
    let (script, gate) = Script::answer("a b c d").gated();
    upstream.always(script);
    let [first, second] = [queue(&one, &body("first")).await, queue(&one, &body("second")).await];
    gate.arrived(2).await;
    let execute = async |sql: &str| {
        Postgres::shared().execute(url.rsplit('/').next().unwrap(), sql).await;
    };
    let hex = first.strip_prefix("resp_").unwrap();
    execute(&format!(
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'refused'; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER refuse BEFORE UPDATE ON background_turns FOR EACH ROW \
         WHEN (OLD.id = '{hex}' AND NEW.epoch > OLD.epoch) EXECUTE FUNCTION refuse()"
    ))
    .await;
    one.stop().await;
    gate.open();
    assert_eq!(ended(&two.client, &second).await["status"], "completed");
    assert_eq!(two.client.get(&path(&first)).await.ok()["status"], "in_progress");
    execute("DROP TRIGGER refuse ON background_turns").await;
    assert_eq!(ended(&two.client, &first).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_far_ahead_keeps_no_other_waiting() {
    // At a keep-alive readers look into the store.
    let (upstream, [one, two]) = two_replicas("timeouts.keep_alive = \"1h\"").await;
    let (script, gate) = Script::answer("a b c d").gated_after(4);
    upstream.script(script.hang_after(6));
    let mut creator = one.client.stream(streamed()).await;
    let id = creator.next().await.unwrap().response_id();
    let follow = async |query: &str| two.client.follow(&format!("{}?stream=true{query}", path(&id))).await;
    let _far_ahead = follow("&starting_after=999999").await;
    let mut reader = follow("").await;
    gate.open();
    for _ in 0..6 {
        reader.next().await.unwrap();
    }
    cancel(&two.client, &id).await.ok();
}
