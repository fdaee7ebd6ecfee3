//! Turns over WebSockets, and chains of calls, against the simulator.

use antiphon_load::{Amount, LoadOptions, Mode, run, run_by_turn};
use antiphon_simulator::upstream::{Close, Options, Received, Script, Simulator};
use std::time::Duration;

fn options(simulator: &Simulator, mode: Mode, requests: u64) -> LoadOptions {
    LoadOptions {
        url: simulator.url(),
        mode,
        concurrency: 1,
        amount: Amount::Requests(requests),
        ..LoadOptions::default()
    }
}

async fn simulator() -> Simulator {
    Simulator::bind(Options::default()).await.unwrap()
}

async fn simulator_that_calls() -> Simulator {
    let simulator = Simulator::bind(Options { stateful: true, ..Options::default() }).await.unwrap();
    simulator.always(Script::call("exec_command", r#"{"cmd":"ls"}"#));
    simulator
}

#[tokio::test]
async fn each_worker_keeps_one_socket() {
    let simulator = simulator().await;
    let load = LoadOptions { concurrency: 3, warmup: 6, ..options(&simulator, Mode::Ws, 30) };
    let report = run(load).await.unwrap();
    assert_eq!((report.requests, report.failed(), report.mode), (30, 0, "ws"));
    assert!(report.first_event.unwrap().min_us <= report.latency.min_us);
    assert_eq!(simulator.requests().len(), 36);
    assert!((1..=3).contains(&simulator.sockets().len()), "{}", simulator.sockets().len());
}

#[tokio::test]
async fn the_key_and_the_path_come_from_the_options() {
    let simulator =
        Simulator::bind(Options { api_key: Some(String::from("sk-1")), ..Options::default() }).await.unwrap();
    let load = LoadOptions { api_key: Some(String::from("sk-1")), ..options(&simulator, Mode::Ws, 1) };
    assert_eq!(run(load).await.unwrap().failed(), 0);
    assert_eq!(simulator.last_socket().unwrap().handshake.path, "/v1/responses");
    let refused = run(options(&simulator, Mode::Ws, 2)).await.unwrap();
    assert_eq!(refused.errors.get("http_401"), Some(&2), "{:?}", refused.errors);
}

#[tokio::test]
async fn a_chain_on_a_socket_continues_by_id_and_sends_only_new_items() {
    let simulator = simulator().await;
    let load = LoadOptions { turns: 3, store: Some(false), ..options(&simulator, Mode::Ws, 4) };
    let report = run_by_turn(load, &[2]).await.unwrap();
    assert_eq!((report.requests, report.failed()), (4, 0));
    assert!(report.turns.contains_key(&2));
    let messages: Vec<_> = simulator.requests().iter().map(Received::json).collect();
    let begins: Vec<_> = messages.iter().map(|turn| turn["previous_response_id"].is_null()).collect();
    assert_eq!(begins, [true, false, false, true]);
    assert!(messages.iter().all(|turn| turn["store"] == false && turn["input"] == messages[0]["input"]));
}

#[tokio::test]
async fn every_turn_of_a_chain_of_calls_sends_the_previous_calls_output() {
    for mode in [Mode::Json, Mode::Sse, Mode::Ws] {
        let simulator = simulator_that_calls().await;
        let load = LoadOptions { turns: 3, tools: true, ..options(&simulator, mode, 7) };
        let report = run(load).await.unwrap();
        assert_eq!((report.requests, report.failed()), (7, 0), "{mode:?}: {:?}", report.errors);
        let inputs = simulator.requests().into_iter().map(|turn| turn.input());
        let kinds: Vec<_> = inputs.map(|items| items[0]["type"].clone()).collect();
        let (first, output) = ("message", "function_call_output");
        assert_eq!(kinds, [first, output, output, first, output, output, first], "{mode:?}");
    }
}

#[tokio::test]
async fn a_chain_of_calls_cannot_continue_without_a_call() {
    let simulator = simulator().await;
    let load = LoadOptions { turns: 3, tools: true, ..options(&simulator, Mode::Ws, 2) };
    let report = run(load).await.unwrap();
    assert_eq!(report.errors.get("no_call"), Some(&2), "{:?}", report.errors);
    assert_eq!(simulator.sockets().len(), 1);
}

#[tokio::test]
async fn a_refused_turn_is_counted_by_status_and_leaves_the_socket_open() {
    let simulator = simulator().await;
    simulator.script(Script::refusal(429, "rate_limit_exceeded", "Slow down."));
    simulator.script(Script::answer("x").failed("server_error", "No."));
    let report = run(options(&simulator, Mode::Ws, 4)).await.unwrap();
    assert_eq!(report.errors.get("http_429"), Some(&1), "{:?}", report.errors);
    assert_eq!(report.errors.get("not_completed"), Some(&1), "{:?}", report.errors);
    assert_eq!((report.requests, simulator.sockets().len()), (4, 1));
}

#[tokio::test]
async fn a_lost_socket_counts_as_cut_and_the_next_turn_opens_another() {
    for close in [Close::Code(1012), Close::Fin, Close::Reset] {
        let simulator = simulator().await;
        simulator.script(Script::answer("x").close_after(2, close));
        let report = run(options(&simulator, Mode::Ws, 3)).await.unwrap();
        assert_eq!(report.errors.get("cut"), Some(&1), "{close:?}: {:?}", report.errors);
        assert_eq!((report.requests, simulator.sockets().len()), (3, 2), "{close:?}");
    }
}

#[tokio::test]
async fn a_slow_first_event_is_distinguished_from_a_slow_end() {
    let simulator = simulator().await;
    simulator.always(
        Script::answer("x")
            .delay_first_event(Duration::from_millis(30))
            .delay_events(Duration::from_millis(5)),
    );
    let report = run(options(&simulator, Mode::Ws, 1)).await.unwrap();
    let first = report.first_event.unwrap().min_us;
    assert!(first >= 30_000.0 && report.latency.min_us >= first + 20_000.0, "{report}");
}

#[tokio::test]
async fn a_port_without_a_listener_is_a_connect_error() {
    let simulator = simulator().await;
    let load = options(&simulator, Mode::Ws, 3);
    simulator.shutdown().await;
    assert_eq!(run(load).await.unwrap().errors.get("connect"), Some(&3));
}
