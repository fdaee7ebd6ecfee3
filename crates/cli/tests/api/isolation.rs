//! Projects share nothing: the objects of another project are indistinguishable from unknown ones.

use std::collections::BTreeMap;

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Client, Gateway, Reply};
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::fairness::clients_of_two_projects;
use crate::gateway;

async fn two_projects() -> (Simulator, Gateway, [Client; 2]) {
    let (upstream, gateway) = gateway().await;
    let clients = clients_of_two_projects(&gateway).await;
    (upstream, gateway, clients)
}

/// Everything that a client sees of a reply, with the requested ids removed.
fn told(reply: &Reply, [response, item]: [&str; 2]) -> (u16, BTreeMap<String, String>, String) {
    let named = |headers: &HeaderMap| {
        let without_date = headers.iter().filter(|(name, _)| *name != "date");
        without_date.map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect()
    };
    let body = String::from_utf8(reply.body.to_vec()).unwrap();
    (reply.status.as_u16(), named(&reply.headers), body.replace(response, "RESPONSE").replace(item, "ITEM"))
}

/// Every way to refer to a response or an item.
fn requests(response: &str, item: &str) -> Vec<(Method, String, Value)> {
    let path = format!("/v1/responses/{response}");
    let codex = format!("/backend-api/codex/responses/{response}");
    let following = json!({"model": "sim", "input": "x", "previous_response_id": response});
    let streamed = json!({"model": "sim", "input": "x", "previous_response_id": response, "stream": true});
    let naming = json!({"model": "sim", "input": [{"type": "item_reference", "id": item}]});
    let mut requests = vec![
        (Method::GET, path.clone(), Value::Null),
        (Method::GET, codex, Value::Null),
        (Method::GET, format!("{path}/input_items"), Value::Null),
        (Method::GET, format!("{path}/input_items?after={item}&limit=1"), Value::Null),
        (Method::POST, format!("{path}/cancel"), Value::Null),
        (Method::DELETE, path, Value::Null),
        (Method::POST, "/v1/responses".into(), streamed),
    ];
    for path in [
        "/v1/responses",
        "/v1/responses/compact",
        "/v1/responses/input_tokens",
        "/backend-api/codex/responses",
    ] {
        requests.push((Method::POST, path.into(), following.clone()));
        requests.push((Method::POST, path.into(), naming.clone()));
    }
    requests
}

#[tokio::test]
async fn objects_of_other_projects_are_indistinguishable_from_unknown_ones() {
    let (upstream, _gateway, [one, two]) = two_projects().await;
    let made = one.created(json!({"model": "sim", "input": "mine", "store": true})).await;
    let (response, item) = (made["id"].as_str().unwrap(), made["output"][0]["id"].as_str().unwrap());
    // With the same format and time as the real ones.
    let last = |id: &str, to: &str| format!("{}{to}", &id[..id.len() - 4]);
    let (no_response, no_item) = (last(response, "dead"), last(item, "dead"));
    let before = upstream.counts().requests;
    for (real, invented) in requests(response, item).into_iter().zip(requests(&no_response, &no_item)) {
        let ask = async |(method, path, body): (Method, String, Value)| {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            two.request(method, &path, &[], body).await
        };
        let (method, path, body) = real.clone();
        let (reply, never) = (ask(real).await, ask(invented).await);
        let (reply, never) = (told(&reply, [response, item]), told(&never, [&no_response, &no_item]));
        assert_eq!(reply, never, "{method} {path} {body}");
        assert!((400..500).contains(&reply.0), "{method} {path} {body}: {reply:?}");
    }
    assert_eq!(upstream.counts().requests, before);
    assert_eq!(one.get(&format!("/v1/responses/{response}")).await.ok(), made, "nothing has happened to it");
    one.created(json!({"model": "sim", "input": "more", "previous_response_id": response})).await;
}

#[tokio::test]
async fn a_running_response_is_invisible_to_other_projects() {
    let (upstream, gateway, [one, two]) = two_projects().await;
    upstream.script(Script::answer("slow").hang_after(1));
    let mut events = one.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    let id = events.until("response.created").await.response_id();
    let following = json!({"model": "sim", "input": "x", "previous_response_id": id});
    assert_eq!(one.create(&following).await.refusal().1.as_deref(), Some("previous_response_not_completed"));
    assert_eq!(two.create(&following).await.refusal().1.as_deref(), Some("previous_response_not_found"));
    drop((events, gateway));
}
