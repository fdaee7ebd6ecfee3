//! Traces: what a collector gets of turns, and what becomes of the trace context of clients.

use std::collections::BTreeSet;

use antiphon_simulator::upstream::{Received, Script, Simulator};
use antiphon_testkit::{
    Client, CollectedSpan, Collector, Gateway, Setup, Socket, SpanKind, eventually, header,
};
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::background::ended;
use crate::{gateway, simulator};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A gateway that has its turns traced.
async fn traced(config: &str) -> (Simulator, Collector, Gateway) {
    let (upstream, collector) = (simulator().await, Collector::start().await);
    let setup = Setup::over(&upstream).config(&collector.config()).config(config);
    let gateway = setup.start().await;
    (upstream, collector, gateway)
}

fn parent(flags: &str) -> (&'static str, HeaderValue) {
    header("traceparent", &format!("00-{TRACE}-{SPAN}-{flags}"))
}

async fn create_with(client: &Client, headers: &[(&'static str, HeaderValue)]) -> Value {
    let body = json!({"model": "sim", "input": "x"}).to_string();
    client.request(Method::POST, "/v1/responses", headers, body).await.ok()
}

/// The only span of this name.
fn named<'a>(spans: &'a [CollectedSpan], name: &str) -> &'a CollectedSpan {
    let mut named = spans.iter().filter(|span| span.name == name);
    let span = named.next().unwrap_or_else(|| panic!("no span {name:?} in {spans:#?}"));
    assert!(named.next().is_none(), "more than one {name:?} in {spans:#?}");
    span
}

fn names(spans: &[CollectedSpan]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

/// The header that makes the upstream's spans children of this one.
fn parent_of(span: &CollectedSpan) -> String {
    format!("00-{}-{}-01", span.trace, span.id)
}

fn sent_parent(request: &Received) -> &str {
    request.header("traceparent").unwrap_or_default()
}

#[tokio::test]
async fn a_collected_turn_continues_the_trace_of_its_client() {
    let (upstream, collector, gateway) = traced("").await;
    upstream.script(Script::answer("done").usage(7, 5));
    let headers = [parent("01"), header("tracestate", "vendor=1"), header("baggage", "user=ada")];
    let response = create_with(&gateway.client, &headers).await;
    let spans = collector.turns(1).await;
    assert_eq!(names(&spans), ["POST /v1/responses", "resolve", "choose", "record", "attempt one"]);
    let turn = &spans[0];
    assert_eq!((turn.trace.as_str(), turn.parent.as_str(), turn.kind), (TRACE, SPAN, SpanKind::Server));
    assert!(!turn.has_failed && turn.links.is_empty());
    for (name, value) in [
        ("http.route", "/v1/responses"),
        ("http.response.status_code", "200"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "sim"),
        ("gen_ai.response.model", response["model"].as_str().unwrap()),
        ("gen_ai.response.id", response["id"].as_str().unwrap()),
        ("gen_ai.usage.input_tokens", "7"),
        ("gen_ai.usage.output_tokens", "5"),
        ("antiphon.account.id", "one"),
        ("antiphon.turn.transport", "http"),
        ("antiphon.turn.outcome", "completed"),
        ("antiphon.turn.recorded", "true"),
        ("antiphon.chain.depth", "1"),
    ] {
        assert_eq!(turn.attribute(name), value, "{name}");
    }
    assert_eq!(turn.resource["service.name"], "antiphon");
    for part in &spans[1..] {
        assert_eq!((&part.trace, &part.parent, part.state.as_str()), (&turn.trace, &turn.id, "vendor=1"));
        assert!(turn.began_ns <= part.began_ns && part.began_ns <= part.ended_ns, "{part:?}");
        assert!(part.ended_ns <= turn.ended_ns && !part.has_failed, "{part:?}");
    }
    let attempt = named(&spans, "attempt one");
    assert_eq!((attempt.kind, attempt.attribute("http.response.status_code")), (SpanKind::Client, "200"));
    assert_eq!(attempt.attribute("server.address"), "127.0.0.1");
    let request = upstream.last_request().unwrap();
    assert_eq!(sent_parent(&request), parent_of(attempt));
    assert_eq!((request.header("tracestate"), request.header("baggage")), (Some("vendor=1"), None));
    let ids: BTreeSet<_> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), spans.len());
}

#[tokio::test]
async fn a_streamed_turn_has_its_first_event_within_its_attempt() {
    let (_upstream, collector, gateway) = traced("traces.service_name = \"gateway\"").await;
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    events.rest().await;
    let spans = collector.turns(1).await;
    let turn = named(&spans, "POST /v1/responses");
    assert_eq!((turn.parent.as_str(), turn.attribute("antiphon.turn.transport")), ("", "sse"));
    assert_eq!(turn.resource["service.name"], "gateway");
    let attempt = named(&spans, "attempt one");
    let [(connected, connected_at), (first, first_at)] = &attempt.events[..] else {
        panic!("{:?}", attempt.events)
    };
    assert_eq!((connected.as_str(), first.as_str()), ("connected", "first event"));
    assert!([attempt.began_ns, *connected_at, *first_at, attempt.ended_ns].is_sorted());
    assert!(attempt.ended_ns <= named(&spans, "record").began_ns);
}

#[tokio::test]
async fn each_turn_of_a_socket_has_a_trace_that_is_linked_to_the_handshake() {
    let (upstream, collector, gateway) = traced("").await;
    let headers = [parent("01"), header("tracestate", "vendor=1")];
    let mut socket = Socket::connect(gateway.address(), "/v1/responses", &headers).await.unwrap();
    let first = socket.created(json!({"model": "sim", "input": "1"})).await;
    let mut second = json!({"model": "sim", "input": "2", "previous_response_id": first["id"]});
    socket.created(second.clone()).await;
    let other = TRACE.replace('0', "1");
    second["client_metadata"] = json!({"ws_request_header_traceparent": format!("00-{other}-{SPAN}-01")});
    socket.created(second).await;
    drop(socket);
    let spans = collector.turns(3).await;
    let turns: Vec<_> = spans.iter().filter(|span| span.is_turn()).collect();
    assert_eq!(turns.len(), 3);
    for turn in &turns[..2] {
        assert_eq!(
            (turn.name.as_str(), turn.kind, turn.parent.as_str()),
            ("response.create", SpanKind::Server, "")
        );
        assert_eq!(turn.links, [(TRACE.to_owned(), SPAN.to_owned())]);
        assert_ne!(turn.trace, TRACE);
        assert_eq!((turn.state.as_str(), turn.attribute("antiphon.turn.transport")), ("", "websocket"));
    }
    assert_ne!(turns[0].trace, turns[1].trace);
    assert_eq!((turns[2].trace.as_str(), turns[2].parent.as_str()), (other.as_str(), SPAN));
    let attempts: Vec<_> = spans.iter().filter(|span| span.name == "attempt one").map(parent_of).collect();
    let sent: Vec<_> = upstream.requests().iter().map(|request| sent_parent(request).to_owned()).collect();
    assert_eq!(sent, attempts);
    assert!(upstream.requests().iter().all(|request| request.header("tracestate").is_none()));
}

#[tokio::test]
async fn each_attempt_is_a_span_of_its_own() {
    let (broken, upstream, collector) = (simulator().await, simulator().await, Collector::start().await);
    broken.always(Script::http(500, "<html>"));
    let accounts = [("a", broken.url()), ("b", upstream.url())];
    let setup = Setup::with_accounts(accounts.iter().map(|(name, url)| (*name, url.as_str())))
        .config("routing.strategy = \"fill_first\"")
        .config(&collector.config());
    let gateway = setup.start().await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let spans = collector.turns(1).await;
    let (failed, answered) = (named(&spans, "attempt a"), named(&spans, "attempt b"));
    assert!(failed.has_failed && !answered.has_failed && !named(&spans, "POST /v1/responses").has_failed);
    assert_eq!(failed.attribute("http.response.status_code"), "500");
    assert_eq!((failed.attribute("error.type"), failed.attribute("antiphon.account.id")), ("failed", "a"));
    assert_eq!(answered.attribute("antiphon.attempt.outcome"), "answered");
    assert!(failed.ended_ns <= answered.began_ns);
    assert_eq!(names(&spans).iter().filter(|name| **name == "choose").count(), 2);
    assert_eq!(sent_parent(&broken.last_request().unwrap()), parent_of(failed));
    assert_eq!(sent_parent(&upstream.last_request().unwrap()), parent_of(answered));
}

#[tokio::test]
async fn a_background_turn_is_linked_to_the_request_that_queued_it() {
    let (upstream, collector, gateway) = traced("").await;
    let body = json!({"model": "sim", "input": "x", "background": true}).to_string();
    let headers = [parent("01"), header("tracestate", "vendor=1")];
    let queued = gateway.client.request(Method::POST, "/v1/responses", &headers, body).await.ok_id();
    ended(&gateway.client, &queued).await;
    let spans = collector.turns(1).await;
    let turn = named(&spans, "background turn");
    assert_eq!((turn.kind, turn.parent.as_str()), (SpanKind::Consumer, ""));
    assert_eq!(turn.links, [(TRACE.to_owned(), SPAN.to_owned())]);
    assert_eq!(turn.attribute("gen_ai.response.id"), queued);
    let request = upstream.last_request().unwrap();
    assert_eq!(sent_parent(&request), parent_of(named(&spans, "attempt one")));
    assert_eq!(request.header("tracestate"), None);
}

#[tokio::test]
async fn a_turn_that_fails_says_where_and_why() {
    let (upstream, collector, gateway) = traced("").await;
    gateway.client.create(json!({"model": "sim", "input": "x", "previous_response_id": "resp_none"})).await;
    upstream.always(Script::http(500, "<html>"));
    gateway.client.create(json!({"model": "sim", "input": "x", "store": false})).await;
    let spans = collector.turns(2).await;
    let turns: Vec<_> = spans.iter().filter(|span| span.is_turn()).collect();
    let [client, server] = turns[..] else { panic!("{turns:#?}") };
    assert_eq!(client.attribute("error.type"), "previous_response_not_found");
    assert_eq!(client.attribute("http.response.status_code"), "400");
    assert!(!client.has_failed, "the server has done nothing wrong");
    let resolve: Vec<_> = spans.iter().filter(|span| span.name == "resolve").collect();
    assert!(resolve[0].has_failed && !resolve[1].has_failed);
    assert_eq!(resolve[0].attribute("error.type"), "previous_response_not_found");
    assert!(server.has_failed);
    assert_eq!(server.attribute("error.type"), "upstream_failed");
    assert_eq!(server.attribute("antiphon.turn.outcome"), "refused");
}

#[tokio::test]
async fn without_traces_nothing_is_sent_and_context_passes_as_it_came() {
    let (upstream, gateway) = gateway().await;
    create_with(&gateway.client, &[]).await;
    let request = upstream.last_request().unwrap();
    assert_eq!((request.header("traceparent"), request.header("tracestate")), (None, None));
    create_with(&gateway.client, &[parent("00"), header("tracestate", "vendor=1")]).await;
    let request = upstream.last_request().unwrap();
    assert_eq!(sent_parent(&request), format!("00-{TRACE}-{SPAN}-00"));
    assert_eq!(request.header("tracestate"), Some("vendor=1"));
    assert!(!gateway.client.metrics().await.contains("antiphon_trace_"));
}

#[tokio::test]
async fn a_client_decides_what_is_traced_only_if_it_is_trusted() {
    for (config, flags, is_traced) in [
        ("traces.sample_ratio = 0", "01", false),
        ("traces.sample_ratio = 1", "00", true),
        ("traces.sample_ratio = 0\ntraces.trust_parent = true", "01", true),
        ("traces.sample_ratio = 1\ntraces.trust_parent = true", "00", false),
    ] {
        let (upstream, collector, gateway) = traced(config).await;
        create_with(&gateway.client, &[parent(flags)]).await;
        let is_passed_on =
            sent_parent(&upstream.last_request().unwrap()) == format!("00-{TRACE}-{SPAN}-{flags}");
        assert_eq!(is_passed_on, !is_traced, "{config} {flags}");
        if is_traced {
            collector.turns(1).await;
        }
        gateway.stop().await;
        assert_eq!(collector.requests().is_empty(), !is_traced, "{config} {flags}");
    }
}

#[tokio::test]
async fn a_parent_that_is_not_valid_is_replaced() {
    let (upstream, collector, gateway) = traced("").await;
    create_with(&gateway.client, &[header("traceparent", "00-zz"), header("tracestate", "vendor=1")]).await;
    let spans = collector.turns(1).await;
    let turn = named(&spans, "POST /v1/responses");
    assert_eq!((turn.parent.as_str(), turn.links.len()), ("", 0));
    let request = upstream.last_request().unwrap();
    assert_eq!(sent_parent(&request), parent_of(named(&spans, "attempt one")));
    assert_eq!(request.header("tracestate"), None);
}

#[tokio::test]
async fn a_collector_that_fails_is_nobodys_problem_and_its_spans_are_counted() {
    let (_upstream, collector, gateway) = traced("").await;
    let count = async |line: &str| gateway.client.metrics().await.contains(line);
    collector.fails(Some(400));
    create_with(&gateway.client, &[]).await;
    let dropped = "antiphon_trace_spans_dropped_total{reason=\"failed\"} 5\n";
    eventually("the spans are dropped", async || count(dropped).await).await;
    collector.fails(None);
    collector.rejects(2);
    create_with(&gateway.client, &[]).await;
    collector.turns(1).await;
    eventually("the others are exported", async || count("antiphon_trace_spans_exported_total 3\n").await)
        .await;
    assert!(count("antiphon_trace_spans_dropped_total{reason=\"rejected\"} 2\n").await);
    collector.hold();
    for _ in 0..20 {
        create_with(&gateway.client, &[]).await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_that_stops_sends_the_last_spans() {
    let (_upstream, collector, gateway) = traced("").await;
    create_with(&gateway.client, &[]).await;
    gateway.stop().await;
    assert_eq!(collector.spans().len(), 5);
}

#[tokio::test]
async fn turns_go_on_without_a_collector() {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).config("traces.endpoint = \"http://127.0.0.1:1\"");
    let gateway = setup.start().await;
    for _ in 0..3 {
        create_with(&gateway.client, &[]).await;
    }
    eventually("the spans are dropped", async || {
        gateway.client.metrics().await.contains("antiphon_trace_spans_dropped_total{reason=\"failed\"} 15\n")
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn the_collector_gets_its_headers_and_no_secret_or_content_of_turns() {
    let (upstream, collector) = (simulator().await, Collector::start().await);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=one%20two".to_owned()),
        ("ANTIPHON_TRACES__TRUST_PARENT", "false".to_owned()),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let setup = Setup::over(&upstream).account_key("sk-of-the-account").environment(&variables);
    let gateway = setup.start().await;
    let operator = Operator::of(&gateway).await;
    let key = operator.send(Method::POST, "/api/keys", json!({"name": "laptop"})).await.json();
    let secret = key["secret"].as_str().unwrap();
    let client = gateway.client.with_secret(secret);
    let body = json!({"model": "sim", "input": "what-was-said", "user": "ada-lovelace", "metadata": {"a": "kept-apart"}});
    let headers = [header("cookie", "cookie-of-the-client"), header("openai-beta", "beta-header")];
    client.request(Method::POST, "/v1/responses", &headers, body.to_string()).await.ok();
    let spans = collector.turns(1).await;
    let turn = named(&spans, "POST /v1/responses");
    assert_eq!(turn.attribute("antiphon.key.name"), "laptop");
    assert_eq!(turn.attribute("antiphon.key.id"), key["id"]);
    assert_eq!(turn.attribute("antiphon.project.id"), key["project"]);
    let (sent, exported) = &collector.requests()[0];
    assert_eq!(
        (sent["x-team"].to_str().unwrap(), sent["content-type"].to_str().unwrap()),
        ("one two", "application/x-protobuf")
    );
    assert!(sent.get("authorization").is_none());
    let exported = String::from_utf8_lossy(exported);
    for hidden in
        [secret, "sk-of", "what-was-said", "ada-lovelace", "kept-apart", "cookie-of", "beta-header", "Bearer"]
    {
        assert!(!exported.contains(hidden), "{hidden}");
    }
}
