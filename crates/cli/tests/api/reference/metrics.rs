//! The metrics, from the pages of gateways on which everything has happened that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{AuthorizationServer, ManualClock, Setup, assert_reference, eventually, repository};
use serde_json::json;

use super::{cell, heading};
use crate::{simulator, tls};

const INTRODUCTION: &str =
    "What `/metrics` has, in the OpenMetrics text format. A metric with labels appears once it has a value.
[Operating](../operating.md#metrics) says which values labels have, and what to watch.";

/// Names in the documentation that begin like those of metrics.
const NO_METRICS: [&str; 1] = ["antiphon_schema"];

#[derive(Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// What an account is asked for at most once before its socket is tried again.
const SOCKETS_ARE_TRIED_AGAIN: Duration = Duration::from_secs(601);

/// The page of a gateway that has served, refused and failed turns over all transports.
async fn page_of_a_busy_gateway() -> String {
    let (upstream, tokens) = (simulator().await, AuthorizationServer::start().await);
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::over(&upstream).account(0, &tokens.account()).account(0, "transport = \"auto\"");
    let key_file = setup.database().with_extension("key");
    let setup = setup
        .config(&format!("store.key_file = {key_file:?}\nprojects.default.limits.requests_per_minute = 1"));
    let gateway = setup.clock(&clock).start().await;
    let turn = json!({"model": "sim", "input": "x"});
    upstream.handshake(Script::refusal(503, "x", "no sockets"));
    gateway.client.created(&turn).await;
    clock.advance(SOCKETS_ARE_TRIED_AGAIN);
    gateway.client.created(&turn).await;
    assert_eq!(gateway.client.create(&turn).await.status, 429);
    drop(gateway.socket().await);
    eventually("the socket is closed", async || {
        let page = gateway.client.metrics().await;
        page.contains("antiphon_socket_closes_total{").then_some(page)
    })
    .await
}

/// The page of a gateway whose traces go nowhere.
async fn page_of_a_traced_gateway() -> String {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("traces.endpoint = \"http://127.0.0.1:1\"").start().await;
    gateway.client.created(&json!({"model": "sim", "input": "x"})).await;
    eventually("the spans are dropped", async || {
        let page = gateway.client.metrics().await;
        page.contains("antiphon_trace_spans_dropped_total{").then_some(page)
    })
    .await
}

/// Every metric by its name in queries. Histograms have three.
async fn all_metrics() -> BTreeMap<String, Metric> {
    let pages =
        [page_of_a_busy_gateway().await, tls::page_of_metrics().await, page_of_a_traced_gateway().await];
    let mut metrics = BTreeMap::<String, Metric>::new();
    for page in &pages {
        read(page, &mut metrics);
    }
    metrics
}

fn read(page: &str, metrics: &mut BTreeMap<String, Metric>) {
    let (mut help, mut kind) = ("", "");
    for line in page.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').unwrap().1;
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            kind = described.split_once(' ').unwrap().1;
        } else if !line.starts_with('#') {
            let (name, _) = line.split_once(['{', ' ']).unwrap();
            let metric = metrics.entry(name.to_owned()).or_default();
            (metric.kind, metric.help) = (kind.to_owned(), help.trim_end_matches('.').to_owned());
            metric.labels.extend(labels(line));
        }
    }
}

fn labels(sample: &str) -> impl Iterator<Item = String> {
    let inside =
        sample.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inside, _)| inside);
    let names = inside.split("\",").filter_map(|label| label.split_once("=\""));
    names.map(|(name, _)| name.to_owned()).collect::<Vec<_>>().into_iter()
}

#[tokio::test]
async fn the_reference_of_metrics_is_what_gateways_show() {
    let mut page = heading("Metrics", INTRODUCTION);
    page.push_str("\n| Metric | Kind | Labels | Meaning |\n| --- | --- | --- | --- |\n");
    for (name, Metric { kind, help, labels }) in all_metrics().await {
        if kind == "histogram" && !name.ends_with("_bucket") {
            continue;
        }
        let name = name.strip_suffix("_bucket").unwrap_or(&name);
        let labels: Vec<String> =
            labels.iter().filter(|label| *label != "le").map(|label| format!("`{label}`")).collect();
        writeln!(page, "| `{name}` | {kind} | {} | {} |", labels.join(", "), cell(&help)).unwrap();
    }
    page.push_str("\nOf a histogram `h` there are `h_bucket` with the label `le`, `h_sum` and `h_count`.\n");
    assert_reference("metrics.md", &page);
}

#[tokio::test]
async fn alerts_dashboards_and_pages_name_metrics_that_exist() {
    let metrics = all_metrics().await;
    let exists = |name: &str| {
        let is_histogram = || metrics.contains_key(&format!("{name}_bucket"));
        metrics.contains_key(name) || is_histogram() || NO_METRICS.contains(&name)
    };
    let mut unknown = Vec::new();
    for folder in ["deploy/monitoring", "docs"] {
        for file in std::fs::read_dir(repository().join(folder)).unwrap() {
            let path = file.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            unknown.extend(
                names(&text).filter(|name| !exists(name)).map(|name| (path.clone(), name.to_owned())),
            );
        }
    }
    assert!(unknown.is_empty(), "no gateway has {unknown:?}");
}

/// What begins like the name of a metric. In names of packages a version follows.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("antiphon_").map(|(start, _)| start);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts = starts.filter(move |start| !text[..*start].bytes().last().is_some_and(is_word));
    let is_version = |rest: &str| rest.as_bytes().get("antiphon_".len()).is_some_and(u8::is_ascii_digit);
    let starts = starts.filter(move |start| !is_version(&text[*start..]));
    starts.map(move |start| {
        let rest = &text[start..];
        let end = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
        &rest[..end]
    })
}
