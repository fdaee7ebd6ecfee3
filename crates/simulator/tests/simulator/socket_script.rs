//! Scripts on sockets.

use crate::support::{post_bytes, scripted, simulator, soon};
use crate::wire::{Came, assert_error, connect, create, kinds, refused, shake, text, with};
use antiphon_simulator::upstream::{Close, Options, Script, Simulator, SocketEnd};
use std::time::{Duration, Instant};

const NOW: Duration = Duration::ZERO;

async fn default_simulator() -> Simulator {
    simulator(Options::default()).await
}

#[tokio::test]
async fn a_handshake_is_refused_with_any_status() {
    let simulator = default_simulator().await;
    for status in [426, 401, 503, 404] {
        simulator.handshake(Script::refusal(status, "refused", "Not now.").header("retry-after", "1"));
        let reply = refused(&simulator, &[]).await;
        assert_eq!(
            (reply.status().as_u16(), &reply.headers()["retry-after"]),
            (status, &"1".parse().unwrap())
        );
        assert_eq!(simulator.last_socket().unwrap().status, Some(status));
    }
    connect(&simulator).await;
    simulator.always_handshake(Script::refusal(426, "refused", "Never."));
    assert_eq!(refused(&simulator, &[]).await.status(), 426);
    assert_eq!(simulator.counts().sockets, 1);
}

#[tokio::test]
async fn a_refused_handshake_uses_up_no_script() {
    let simulator = scripted(Script::answer("scripted")).await;
    simulator.handshake(Script::refusal(503, "refused", "Not now."));
    refused(&simulator, &[]).await;
    assert_eq!(text(&connect(&simulator).await.turn(&create("x")).await), "scripted");
}

#[tokio::test]
async fn a_handshake_can_be_slow_or_held_or_dropped() {
    let simulator = default_simulator().await;
    let (held, gate) = Script::new().header("x-codex-turn-state", "state").gated();
    simulator.handshake(held);
    let shaking = async { shake(&simulator, &[]).await.unwrap() };
    let opening = async {
        soon(gate.arrived(1)).await;
        assert_eq!((simulator.counts().sockets, simulator.last_socket().unwrap().status), (0, None));
        gate.open();
    };
    let (wire, ()) = tokio::join!(shaking, opening);
    assert_eq!(wire.handshake.headers()["x-codex-turn-state"], "state");
    simulator.handshake(Script::new().delay_headers(Duration::from_millis(20)));
    let started = Instant::now();
    connect(&simulator).await;
    assert!(started.elapsed() >= Duration::from_millis(20));
    simulator.handshake(Script::new().drop_connection());
    assert!(shake(&simulator, &[]).await.is_err());
}

#[tokio::test]
async fn a_socket_is_closed_with_a_code_after_any_number_of_events() {
    for (events, code) in [(0, 1011), (3, 1012)] {
        let simulator = scripted(Script::answer("x").close_after(events, Close::Code(code))).await;
        let mut wire = connect(&simulator).await;
        wire.send(&create("x")).await;
        let (came, end) = wire.rest().await;
        assert!(matches!(end, Came::Close(Some(given)) if given == code), "{end:?}");
        assert_eq!(came, events);
        assert_eq!(simulator.last_socket().unwrap().end, Some(SocketEnd::Here(Close::Code(code))));
        soon(simulator.wait_until(|simulator| simulator.counts().finished == 1)).await;
    }
}

#[tokio::test]
async fn a_socket_ends_without_a_close_frame_after_any_number_of_events() {
    let scripts = [
        (Script::answer("x").close_after(0, Close::Fin), 0, false),
        (Script::answer("x").close_after(3, Close::Fin), 3, false),
        (Script::answer("x").close_after(0, Close::Reset), 0, true),
        (Script::answer("x").cut_after(3), 3, true),
        (Script::answer("x").drop_connection(), 0, true),
    ];
    for (script, events, is_reset) in scripts {
        let simulator = scripted(script).await;
        let mut wire = connect(&simulator).await;
        wire.send(&create("x")).await;
        let (came, end) = wire.rest().await;
        assert_eq!(came, events);
        assert!(matches!(end, Came::End { reset } if reset == is_reset), "{end:?}");
    }
}

#[tokio::test]
async fn a_socket_is_cut_inside_a_message() {
    let simulator = scripted(Script::answer("x").cut_inside(2)).await;
    let mut wire = connect(&simulator).await;
    wire.send(&create("x")).await;
    let bytes = wire.raw_rest().await;
    let mut rest = bytes.as_slice();
    for whole in [true, true, false] {
        // A text of up to 64 KiB: two bytes, and two with the length.
        assert_eq!(rest[..2], [0x81, 126]);
        let promised = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let arrived = promised.min(rest.len() - 4);
        assert_eq!(arrived == promised, whole);
        rest = &rest[4 + arrived..];
    }
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_socket_is_closed_after_a_turn() {
    let idle = Duration::from_millis(5);
    for (idle, close) in
        [(NOW, Close::Code(1000)), (idle, Close::Code(1001)), (NOW, Close::Fin), (idle, Close::Reset)]
    {
        let simulator = scripted(Script::answer("x").then_close(idle, close)).await;
        let mut wire = connect(&simulator).await;
        assert_eq!(text(&wire.turn(&create("x")).await), "x");
        let end = wire.next().await;
        let expected = match close {
            Close::Code(code) => matches!(end, Came::Close(Some(given)) if given == code),
            Close::Fin => matches!(end, Came::End { reset: false }),
            Close::Reset => matches!(end, Came::End { reset: true }),
        };
        assert!(expected, "{end:?}");
    }
}

#[tokio::test]
async fn a_socket_with_another_turn_is_not_idle() {
    let (first, gate) = Script::answer("x").then_close(Duration::from_millis(1), Close::Fin).gated();
    let simulator = scripted(first).await;
    simulator.script(Script::answer("y").delay_headers(Duration::from_millis(10)));
    let mut wire = connect(&simulator).await;
    wire.send(&create("x")).await;
    wire.send(&create("x")).await;
    soon(simulator.wait_until(|simulator| simulator.in_flight() == 2)).await;
    gate.open();
    assert_eq!(text(&wire.events().await), "x");
    assert_eq!(text(&wire.events().await), "y");
}

#[tokio::test]
async fn an_accepted_socket_can_be_closed_before_any_turn() {
    let simulator = default_simulator().await;
    simulator.handshake(Script::new().close_after(0, Close::Code(1008)));
    assert!(matches!(connect(&simulator).await.next().await, Came::Close(Some(1008))));
    simulator.handshake(Script::new().then_close(Duration::from_millis(1), Close::Reset));
    assert!(matches!(connect(&simulator).await.next().await, Came::End { reset: true }));
}

#[tokio::test]
async fn a_test_can_close_open_sockets() {
    let simulator = scripted(Script::answer("x").hang_after(1)).await;
    let (mut idle, mut busy) = (connect(&simulator).await, connect(&simulator).await);
    busy.send(&create("x")).await;
    busy.event().await;
    simulator.close_sockets(Close::Code(1012));
    assert!(matches!(idle.next().await, Came::Close(Some(1012))));
    assert!(matches!(busy.next().await, Came::Close(Some(1012))));
    soon(simulator.wait_until(|simulator| simulator.counts().open_sockets == 0)).await;
    assert_eq!(simulator.aborted(), 1);
    assert_eq!(text(&connect(&simulator).await.turn(&create("SAY{again}")).await), "again");
}

#[tokio::test]
async fn an_error_takes_the_place_of_a_reply_and_the_socket_stays_open() {
    let simulator = default_simulator().await;
    simulator
        .script(Script::refusal(429, "rate_limit_exceeded", "Slow down.").header("retry-after", "1"))
        .script(Script::http(503, "down"));
    let mut wire = connect(&simulator).await;
    let limited = wire.turn(&with(create("x"), "stream_id", "a")).await.remove(0);
    assert_error(&limited, 429, "rate_limit_exceeded", None);
    assert_eq!((&limited["headers"]["retry-after"], &limited["stream_id"]), (&"1".into(), &"a".into()));
    let down = wire.turn(&create("x")).await.remove(0);
    assert_eq!((&down["status"], &down["error"]["message"]), (&503.into(), &"down".into()));
    let word = wire.turn(&create("ERROR{400,context_length_exceeded}")).await.remove(0);
    assert_error(&word, 400, "context_length_exceeded", None);
    assert_eq!(text(&wire.turn(&create("SAY{on}")).await), "on");
    let limit = Script::refusal(400, "websocket_connection_limit_reached", "60 minutes.");
    simulator.script(limit.then_close(NOW, Close::Code(1000)));
    assert_error(&wire.turn(&create("x")).await[0], 400, "websocket_connection_limit_reached", None);
    assert!(matches!(wire.next().await, Came::Close(Some(1000))));
}

#[tokio::test]
async fn a_turn_can_be_slow_or_held() {
    let pause = Duration::from_millis(2);
    let simulator =
        scripted(Script::answer("x").deltas(1).delay_events(pause).delay_first_event(pause)).await;
    let mut wire = connect(&simulator).await;
    let started = Instant::now();
    let events = wire.turn(&create("x")).await;
    assert!(started.elapsed() >= pause * u32::try_from(events.len()).unwrap());
    let (held, gate) = Script::answer("x").gated_after(2);
    simulator.script(held);
    wire.send(&create("x")).await;
    wire.event().await;
    wire.event().await;
    soon(gate.arrived(1)).await;
    gate.open();
    assert_eq!(kinds(&wire.events().await).last(), Some(&"response.completed"));
}

#[tokio::test]
async fn a_stream_that_just_ends_closes_the_socket_and_one_that_fails_does_not() {
    for script in [Script::answer("x").no_terminal(), Script::answer("x").end_after(3)] {
        let simulator = scripted(script).await;
        let mut wire = connect(&simulator).await;
        wire.send(&create("x")).await;
        let (_, end) = wire.rest().await;
        assert!(matches!(end, Came::Close(Some(1000))), "{end:?}");
    }
    let simulator = scripted(Script::answer("x").error_event("server_error", "It broke.")).await;
    simulator.script(Script::answer("x").failed("server_error", "It broke."));
    let mut wire = connect(&simulator).await;
    let failed = wire.turn(&create("x")).await.pop().unwrap();
    assert_eq!((&failed["type"], &failed["code"]), (&"error".into(), &"server_error".into()));
    let failed = wire.turn(&create("x")).await.pop().unwrap()["response"].clone();
    assert_eq!(failed["status"], "failed");
    let next = with(create("x"), "previous_response_id", failed["id"].clone());
    assert_error(
        &wire.turn(&next).await[0],
        400,
        "previous_response_not_found",
        Some("previous_response_id"),
    );
}

#[tokio::test]
async fn scripted_bytes_are_messages_of_their_own() {
    let simulator = scripted(Script::answer("x").inject(1, r#"{"type":"odd"}"#)).await;
    simulator.script(Script::stream_bytes(
        "data: {\"type\":\"odd\"}\n\ndata: {\"type\":\"response.completed\"}\n\n",
    ));
    let mut wire = connect(&simulator).await;
    assert_eq!(wire.turn(&create("x")).await[1]["type"], "odd");
    assert_eq!(kinds(&wire.turn(&create("x")).await), ["odd", "response.completed"]);
}

#[tokio::test]
async fn directives_control_the_turns_of_a_socket() {
    let simulator = default_simulator().await;
    let mut wire = connect(&simulator).await;
    wire.send(&create("CLOSE{2,4000}")).await;
    assert!(matches!(wire.rest().await, (2, Came::Close(Some(4000)))));
    let mut wire = connect(&simulator).await;
    wire.send(&create("CUT{1}")).await;
    assert!(matches!(wire.rest().await, (1, Came::End { reset: true })));
    let http =
        post_bytes(&simulator, r#"{"model":"sim","store":false,"stream":true,"input":"CLOSE{2,4000}"}"#)
            .await;
    assert!(!http.whole);
    assert_eq!(http.events().len(), 2);
}

#[tokio::test]
async fn sockets_end_with_their_simulator() {
    let simulator = scripted(Script::answer("x").hang_after(1)).await;
    let mut wire = connect(&simulator).await;
    wire.send(&create("x")).await;
    wire.event().await;
    soon(simulator.shutdown()).await;
    assert!(matches!(wire.next().await, Came::End { .. }));
}
