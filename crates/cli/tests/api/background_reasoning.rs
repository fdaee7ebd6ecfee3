//! Encrypted reasoning in the logs of background responses: they have it for whoever takes the turn over, and show it only to
//! clients that asked for it.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Event, Fault, Faults, Gateway, Postgres, Setup};
use serde_json::{Value, json};

use crate::background::{ended, path};
use crate::{gateway, simulator};

const ENCRYPTED: &str = "reasoning.encrypted_content";
const INCLUDING: &str = "&include[]=reasoning.encrypted_content";

fn thinking() -> Script {
    Script::new().reasoning("I thought.").text("so")
}

fn request(is_asked_for: bool) -> Value {
    let include = if is_asked_for { vec![ENCRYPTED] } else { Vec::new() };
    json!({"model": "sim", "input": "x", "background": true, "stream": true, "include": include})
}

/// The types of the events that hold encrypted content.
fn with_encrypted(events: &[Event]) -> Vec<&str> {
    let holding = events.iter().filter(|event| event.json().to_string().contains("encrypted_content"));
    holding.map(|event| &*event.name).collect()
}

fn raw(events: &[Event]) -> Vec<u8> {
    events.iter().flat_map(|event| event.raw.to_vec()).collect()
}

async fn log(gateway: &Gateway, id: &str, query: &str) -> Vec<Event> {
    gateway.client.follow(&format!("{}?stream=true{query}", path(id))).await.rest().await
}

/// That the response can be continued with its reasoning, on an upstream that takes none without its content.
async fn assert_continues(upstream: &Simulator, gateway: &Gateway, id: &str) {
    let on = json!({"model": "sim", "input": "on", "previous_response_id": id});
    gateway.client.created(&on).await;
    let reasoning = upstream.last_request().unwrap().input()[1].clone();
    assert!(reasoning["type"] == "reasoning" && reasoning["encrypted_content"].is_string(), "{reasoning}");
}

#[tokio::test]
async fn the_log_shows_encrypted_reasoning_only_to_a_client_that_asked_for_it() {
    let (upstream, gateway) = gateway().await;
    let everywhere =
        ["response.output_item.added", "response.output_item.done", "response.completed"].as_slice();
    for is_asked_for in [false, true] {
        upstream.script(thinking());
        let live = gateway.client.stream(request(is_asked_for)).await.rest().await;
        assert_eq!(with_encrypted(&live), if is_asked_for { everywhere } else { &[] });
        let id = live[0].response_id();
        assert!(raw(&log(&gateway, &id, "").await) == raw(&live));
        assert!(raw(&log(&gateway, &id, "&starting_after=2").await) == raw(&live[3..]));
        let whole = log(&gateway, &id, INCLUDING).await;
        assert_eq!((with_encrypted(&whole), whole.len()), (everywhere.to_vec(), live.len()));
        assert_continues(&upstream, &gateway, &id).await;
    }
}

/// A gateway whose store is the database at this address, or an SQLite file.
async fn over(upstream: &Simulator, url: Option<&str>, account: &str, faults: &Faults) -> Gateway {
    let setup = Setup::over(upstream).account(0, account).config("timeouts.shutdown = \"50ms\"");
    let setup = setup.config("background.lease = \"3s\"").faults(faults);
    match url {
        Some(url) => setup.database_url(url).start().await,
        None => setup.start().await,
    }
}

async fn databases() -> [Option<String>; 2] {
    [None, Some(Postgres::shared_database().await)]
}

/// Streams a turn to the end of its reasoning. Then its gateway dies, and the next one ends the turn.
async fn outlived(gateway: Gateway, faults: &Faults, request: Value) -> (Gateway, String) {
    let is_asked_for = request["include"][0] == ENCRYPTED;
    let mut events = gateway.client.stream(request).await;
    let id = events.next().await.unwrap().response_id();
    let done = events.until("response.output_item.done").await;
    assert_eq!(done.json()["item"].get("encrypted_content").is_some(), is_asked_for);
    faults.set(Fault::Fails("end_background"));
    let setup = gateway.stop().await;
    faults.set(Fault::None);
    let gateway = setup.start().await;
    let failed = ended(&gateway.client, &id).await;
    assert_eq!((&failed["status"], failed["output"].as_array().unwrap().len()), (&json!("failed"), 1));
    (gateway, id)
}

#[tokio::test]
async fn a_turn_whose_owner_dies_after_its_reasoning_can_be_continued() {
    for (url, is_asked_for) in databases().await.iter().flat_map(|url| [(url, false), (url, true)]) {
        let (upstream, faults) = (simulator().await, Faults::default());
        let gateway = over(&upstream, url.as_deref(), "", &faults).await;
        upstream.script(thinking().hang_after(12));
        let (gateway, id) = outlived(gateway, &faults, request(is_asked_for)).await;
        let shown: &[_] = match is_asked_for {
            true => &["response.output_item.added", "response.output_item.done", "response.failed"],
            false => &[],
        };
        assert_eq!(with_encrypted(&log(&gateway, &id, "").await), shown);
        assert_continues(&upstream, &gateway, &id).await;
    }
}

#[tokio::test]
async fn the_reasoning_of_a_turn_whose_owner_dies_stays_with_the_account_that_made_it() {
    let at = async |boundary: &str| {
        Simulator::bind(Options { boundary: boundary.to_owned(), ..Options::default() }).await.unwrap()
    };
    let (one, two, faults) = (at("one").await, at("two").await, Faults::default());
    let setup = Setup::with_accounts([("one", &*one.url()), ("two", &*two.url())]).faults(&faults);
    let config = "routing.strategy = \"fill_first\"\ntimeouts.shutdown = \"50ms\"";
    let gateway = setup.config(config).start().await;
    one.script(thinking().hang_after(12));
    let (gateway, id) = outlived(gateway, &faults, request(false)).await;
    one.script(Script::http(500, "{}"));
    let on = json!({"model": "sim", "input": "on", "previous_response_id": id});
    let elsewhere = gateway.client.create(&on).await;
    assert_eq!(elsewhere.header("x-antiphon-reasoning"), Some("stripped"));
    assert_eq!(two.counts().requests, 1, "it was stripped without a refused attempt");
    assert_continues(&one, &gateway, &id).await;
}

#[tokio::test]
async fn the_reasoning_of_a_turn_whose_owner_dies_is_nobodys_once_its_account_is_removed() {
    let at = async |boundary: &str| {
        Simulator::bind(Options { boundary: boundary.to_owned(), ..Options::default() }).await.unwrap()
    };
    let (one, two, faults) = (at("one").await, at("two").await, Faults::default());
    let setup = Setup::with_accounts([("one", &*one.url()), ("two", &*two.url())]).faults(&faults);
    let config = "routing.strategy = \"fill_first\"\ntimeouts.shutdown = \"50ms\"";
    let gateway = setup.config(config).start().await;
    one.script(thinking().hang_after(12));
    let mut events = gateway.client.stream(request(false)).await;
    let id = events.next().await.unwrap().response_id();
    events.until("response.output_item.done").await;
    faults.set(Fault::Fails("end_background"));
    let setup = gateway.stop().await.without_account(0);
    faults.set(Fault::None);
    let gateway = setup.start().await;
    ended(&gateway.client, &id).await;
    let on = json!({"model": "sim", "input": "on", "previous_response_id": id});
    let elsewhere = gateway.client.create(&on).await;
    assert_eq!(elsewhere.header("x-antiphon-reasoning"), Some("stripped"));
    assert_eq!(two.counts().requests, 1, "it was stripped without a refused attempt");
}

/// A turn that its upstream runs, and goes on with when its gateway stops before the reasoning. Something happens before the next
/// owner reads on.
async fn read_on(
    url: Option<&str>,
    is_asked_for: bool,
    between: impl AsyncFnOnce(),
) -> (Simulator, Gateway, String) {
    let options = Options { background: true, ..Options::default() };
    let upstream = Simulator::bind(options).await.unwrap();
    let gateway = over(&upstream, url, "background = \"native\"", &Faults::default()).await;
    let (script, gate) = thinking().gated_after(2);
    upstream.script(script);
    let mut events = gateway.client.stream(request(is_asked_for)).await;
    let id = events.next().await.unwrap().response_id();
    gate.arrived(1).await;
    events.next().await.unwrap();
    let setup = gateway.stop().await;
    between().await;
    gate.open();
    let gateway = setup.start().await;
    let completed = ended(&gateway.client, &id).await;
    assert_eq!((&completed["status"], upstream.counts().requests), (&json!("completed"), 1));
    (upstream, gateway, id)
}

#[tokio::test]
async fn what_another_owner_reads_on_at_the_upstream_is_logged_whole_and_shown_as_before() {
    for (url, is_asked_for) in databases().await.iter().flat_map(|url| [(url, false), (url, true)]) {
        let (upstream, gateway, id) = read_on(url.as_deref(), is_asked_for, async || {}).await;
        let everywhere = ["response.output_item.added", "response.output_item.done", "response.completed"];
        let shown = if is_asked_for { everywhere.as_slice() } else { &[] };
        assert_eq!(with_encrypted(&log(&gateway, &id, "").await), shown);
        assert_eq!(with_encrypted(&log(&gateway, &id, INCLUDING).await), everywhere);
        assert_continues(&upstream, &gateway, &id).await;
    }
}

#[tokio::test]
async fn a_log_that_an_earlier_version_has_begun_goes_on_without_encrypted_reasoning() {
    let url = Postgres::shared_database().await;
    let name = url.rsplit('/').next().unwrap();
    let as_earlier =
        async || Postgres::shared().execute(name, "UPDATE background_turns SET streamed = 1").await;
    let (upstream, gateway, id) = read_on(Some(&url), false, as_earlier).await;
    assert_eq!(with_encrypted(&log(&gateway, &id, "").await), [""; 0]);
    assert_continues(&upstream, &gateway, &id).await;
}
