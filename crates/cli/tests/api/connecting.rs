//! Which attempts opened a connection to their upstream, and how long that took.

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Gateway, Setup, eventually, header};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::simulator;

/// The attempts of a turn that is run now, and its id.
async fn attempts(gateway: &Gateway, operator: &Operator, parent: Option<&str>) -> (Vec<Value>, String) {
    let turn = json!({"model": "sim", "input": "x", "previous_response_id": parent});
    let id = gateway.client.create(turn).await.ok_id();
    let response = operator.get(&format!("/api/responses/{id}")).await;
    (response["attempts"].as_array().unwrap().clone(), id)
}

/// Fails unless the attempt connected, while it lasted.
#[track_caller]
fn assert_connected(attempt: &Value) {
    let time = |name: &str| attempt[name].as_f64().unwrap_or_else(|| panic!("{name} is not in {attempt}"));
    let connect = time("connect_ms");
    // Times are rounded.
    assert!(connect > 0.0 && connect <= time("ended_ms") - time("began_ms") + 0.01, "{attempt}");
}

#[tokio::test]
async fn only_an_attempt_that_opened_a_connection_says_how_long_it_took() {
    for transport in ["http", "websocket"] {
        let upstream = simulator().await;
        let account = format!("transport = \"{transport}\"");
        let gateway = Setup::over(&upstream).account(0, &account).start().await;
        let operator = Operator::of(&gateway).await;
        let (first, mut parent) = attempts(&gateway, &operator, None).await;
        let [attempt] = &first[..] else { panic!("{first:?}") };
        assert_eq!((&attempt["account"], &attempt["outcome"]), (&json!("one"), &json!("answered")));
        assert_connected(attempt);
        // Each worker has connections of its own.
        eventually("a connection is reused", async || {
            let (next, id) = attempts(&gateway, &operator, Some(&parent)).await;
            parent = id;
            next.len() == 1 && next[0].get("connect_ms").is_none()
        })
        .await;
    }
}

#[tokio::test]
async fn failed_attempts_say_it_too_unless_no_connection_came_about() {
    let (failing, serving) = (simulator().await, simulator().await);
    // Nobody listens on this port.
    let urls = ["http://127.0.0.1:1/v1", &failing.url(), &serving.url()];
    let gateway = Setup::with_accounts(["down", "failing", "serving"].into_iter().zip(urls))
        .account(0, "priority = 2")
        .account(1, "priority = 1")
        .start()
        .await;
    let operator = Operator::of(&gateway).await;
    failing.always(Script::http(500, "{}"));
    let (attempts, id) = attempts(&gateway, &operator, None).await;
    let of = |account: &str| attempts.iter().find(|attempt| attempt["account"] == account).unwrap();
    assert_eq!((&of("down")["outcome"], of("down").get("connect_ms")), (&json!("failed"), None));
    assert!(of("down")["ended_ms"].as_f64() >= of("down")["began_ms"].as_f64());
    assert_ne!(of("failing")["outcome"], "answered");
    assert_connected(of("failing"));
    assert_connected(of("serving"));
    let login = format!("token={}", operator.token);
    let form = [header("sec-fetch-site", "same-origin")];
    let signed_in = gateway.client.request(Method::POST, "/login", &form, login).await;
    let cookie = signed_in.header("set-cookie").unwrap().split(';').next().unwrap();
    let page = gateway
        .client
        .request(Method::GET, &format!("/responses/{id}"), &[header("cookie", cookie)], "")
        .await;
    assert_eq!(page.status, StatusCode::OK);
    let page = String::from_utf8_lossy(&page.body);
    let mut steps = [
        "waiting for an account",
        "down: failed",
        "failing: connecting",
        "failing: ",
        "serving: connecting",
        "serving: until the first event",
        "events until the end",
    ]
    .into_iter();
    let found = steps.try_fold(&page[..], |rest, step| rest.split_once(step).map(|(_, rest)| rest));
    assert!(found.is_some() && !page.contains("down: connecting"), "{page}");
}
