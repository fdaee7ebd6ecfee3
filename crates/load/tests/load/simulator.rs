//! Tests of the load generator against the simulator.

use antiphon_load::{Amount, LoadOptions, Mode, run};
use antiphon_simulator::upstream::{Options, Script, Simulator};
use std::time::Duration;

fn options(simulator: &Simulator, mode: Mode) -> LoadOptions {
    LoadOptions {
        url: simulator.url(),
        mode,
        concurrency: 4,
        amount: Amount::Requests(40),
        ..LoadOptions::default()
    }
}

async fn simulator(options: Options) -> Simulator {
    Simulator::bind(options).await.unwrap()
}

#[tokio::test]
async fn collected_turns_are_counted_and_timed() {
    let simulator = simulator(Options::default()).await;
    let report = run(LoadOptions { warmup: 5, ..options(&simulator, Mode::Json) }).await.unwrap();
    assert_eq!((report.requests, report.failed()), (40, 0));
    assert!(report.bytes > 40 * 1_000);
    assert!(report.latency.min_us > 0.0 && report.latency.p50_us <= report.latency.max_us);
    assert!(report.first_event.is_none());
    assert_eq!(simulator.requests().len(), 45);
    assert_eq!(simulator.requests()[0].json()["store"], false);
    assert!(report.to_string().contains("latency"));
}

#[tokio::test]
async fn streams_are_read_to_their_terminal_event() {
    let simulator = simulator(Options::default()).await;
    let report = run(options(&simulator, Mode::Sse)).await.unwrap();
    assert_eq!((report.requests, report.failed()), (40, 0));
    let first_event = report.first_event.unwrap();
    assert!(first_event.p50_us <= report.latency.p50_us);
}

#[tokio::test]
async fn the_terminal_event_is_found_across_pieces() {
    let simulator = simulator(Options::default()).await;
    simulator.always(Script::answer("x").writes_of(5));
    let few = LoadOptions { amount: Amount::Requests(2), ..options(&simulator, Mode::Sse) };
    assert_eq!(run(few).await.unwrap().failed(), 0);
}

#[tokio::test]
async fn chains_continue_by_id_and_restart_after_their_last_turn() {
    let simulator = simulator(Options { stateful: true, ..Options::default() }).await;
    let one = LoadOptions {
        concurrency: 1,
        turns: 3,
        amount: Amount::Requests(7),
        ..options(&simulator, Mode::Json)
    };
    let report = run(one).await.unwrap();
    assert_eq!((report.requests, report.failed()), (7, 0));
    let parents =
        simulator.requests().into_iter().map(|request| request.json()["previous_response_id"].is_null());
    assert_eq!(parents.collect::<Vec<_>>(), [true, false, false, true, false, false, true]);
}

#[tokio::test]
async fn failures_are_counted_by_kind() {
    let cases = [
        (Script::refusal(503, "server_error", "No."), "http_503"),
        (Script::answer("x").cut_after(3), "cut"),
        (Script::answer("x").no_terminal(), "no_terminal"),
        (Script::answer("x").failed("server_error", "No."), "not_completed"),
        (Script::new().drop_connection(), "cut"),
    ];
    for (script, kind) in cases {
        let simulator = simulator(Options::default()).await;
        simulator.always(script);
        let report = run(options(&simulator, Mode::Sse)).await.unwrap();
        assert_eq!(report.errors.get(kind), Some(&40), "{kind}: {:?}", report.errors);
    }
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_connect_error() {
    let simulator = simulator(Options::default()).await;
    let load = LoadOptions { amount: Amount::Requests(3), ..options(&simulator, Mode::Json) };
    simulator.shutdown().await;
    assert_eq!(run(load).await.unwrap().errors.get("connect"), Some(&3));
}

#[tokio::test]
async fn a_run_can_be_limited_by_time() {
    let simulator = simulator(Options::bench()).await;
    let amount = Amount::Time(Duration::from_millis(500));
    let report = run(LoadOptions { amount, ..options(&simulator, Mode::Json) }).await.unwrap();
    assert!(report.requests > 0 && report.failed() == 0);
    assert!(report.seconds >= 0.4);
}

#[tokio::test]
async fn an_unusable_url_is_an_error() {
    for url in ["https://example.com/v1", "nonsense", ""] {
        assert!(run(LoadOptions { url: url.to_owned(), ..LoadOptions::default() }).await.is_err(), "{url}");
    }
}

#[tokio::test]
async fn the_delay_of_each_delta_is_measured_over_streams_and_sockets() {
    let simulator = simulator(Options { event_by_event: true, ..Options::bench() }).await;
    for mode in [Mode::Sse, Mode::Ws] {
        let report = run(LoadOptions { delays: true, ..options(&simulator, mode) }).await.unwrap();
        assert_eq!(report.failed(), 0);
        let delay = report.delta_delay.expect("deltas are stamped");
        assert!(delay.min_us > 0.0 && delay.max_us < 60e6, "{delay:?}");
    }
    assert!(run(options(&simulator, Mode::Sse)).await.unwrap().delta_delay.is_none());
}
