//! Bounds that projects share: what one takes leaves room for the others.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Client, Gateway, Setup, eventually};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::administering::Operator;
use crate::simulator;

/// A gateway with the clients of two projects.
pub(crate) async fn two_projects(setup: Setup) -> (Gateway, [Client; 2]) {
    let gateway = setup.start().await;
    let clients = clients_of_two_projects(&gateway).await;
    (gateway, clients)
}

pub(crate) async fn clients_of_two_projects(gateway: &Gateway) -> [Client; 2] {
    let operator = Operator::of(gateway).await;
    let one = operator.key(json!({"name": "one"})).await;
    let two = operator.key(json!({"name": "two"})).await;
    [gateway.client.with_secret(&one), gateway.client.with_secret(&two)]
}

fn ask(client: &Client, input: &'static str) -> JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        client.created(json!({"model": "sim", "input": input})).await;
    })
}

fn inputs(upstream: &Simulator) -> Vec<String> {
    let input = |body: serde_json::Value| body["input"].as_str().unwrap().to_owned();
    upstream.requests().iter().map(|request| input(request.json())).collect()
}

#[tokio::test]
async fn projects_take_turns_at_a_busy_account_whatever_they_have_waiting() {
    let upstream = simulator().await;
    let (gateway, [one, two]) =
        two_projects(Setup::over(&upstream).account(0, "max_in_flight = 1").config("routing.max_queued = 5"))
            .await;
    let (script, gate) = Script::answer("x").gated();
    upstream.script(script);
    let mut turns = vec![ask(&one, "running")];
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    let queued = async || gateway.client.metric("antiphon_turns_queued").await;
    for waiting in 1..=5 {
        turns.push(ask(&one, "one"));
        eventually("the turn waits", async || queued().await == waiting).await;
    }
    let refused = one.create(json!({"model": "sim", "input": "one"})).await;
    assert_eq!(refused.refusal(), (503, Some("server_is_overloaded".into()), None));
    let other = ask(&two, "two");
    // The last turn of the other project has made room.
    turns.pop().unwrap().await.unwrap_err();
    eventually("the turn waits", async || queued().await == 5).await;
    gate.open();
    other.await.unwrap();
    for turn in turns {
        turn.await.unwrap();
    }
    assert_eq!(inputs(&upstream), ["running", "one", "two", "one", "one", "one"]);
}
