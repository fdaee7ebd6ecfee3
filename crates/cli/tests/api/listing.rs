//! Lists of conversations and of background turns, in the admin API and in the dashboard.

use std::collections::BTreeSet;

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Gateway, Reply, header};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::background::{body, ended, in_progress, queue};
use crate::gateway;

/// An operator's browser.
struct Pages<'a> {
    gateway: &'a Gateway,
    cookie: String,
}

impl<'a> Pages<'a> {
    async fn of(gateway: &'a Gateway, operator: &Operator) -> Self {
        let form = [header("sec-fetch-site", "same-origin")];
        let token = format!("token={}", operator.token);
        let reply = gateway.client.request(Method::POST, "/login", &form, token).await;
        let cookie = reply.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        Self { gateway, cookie }
    }

    async fn get(&self, path: &str) -> Reply {
        self.gateway.client.request(Method::GET, path, &[header("cookie", &self.cookie)], "").await
    }

    async fn post(&self, path: &str) -> Reply {
        let form = [header("cookie", &self.cookie), header("sec-fetch-site", "same-origin")];
        self.gateway.client.request(Method::POST, path, &form, "").await
    }

    async fn text(&self, path: &str) -> String {
        let reply = self.get(path).await;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, StatusCode::OK, "{text}");
        text
    }
}

fn ids(list: &Value) -> Vec<&str> {
    list["turns"].as_array().unwrap().iter().map(|turn| turn["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn background_turns_are_listed_page_by_page() {
    let (upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    assert_eq!(operator.get("/api/background").await, json!({"turns": [], "has_more": false}));
    let done = queue(&gateway, &body("done")).await;
    ended(&gateway.client, &done).await;
    let (script, gate) = Script::answer("held").gated();
    upstream.script(script);
    let held = queue(&gateway, &body("held")).await;
    in_progress(&gateway.client, &held).await;
    let all = operator.get("/api/background").await;
    assert_eq!(ids(&all).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([&*done, &*held]));
    let of = |id: &str| {
        let mut turns = all["turns"].as_array().unwrap().iter();
        turns.find(|turn| turn["id"] == id).unwrap().clone()
    };
    let (ended_turn, running) = (of(&done), of(&held));
    assert_eq!((&ended_turn["status"], &ended_turn["leased"]), (&json!("completed"), &Value::Null));
    assert!(ended_turn["ended_at"].is_string() && running["ended_at"].is_null());
    assert_eq!((&running["status"], &running["leased"]), (&json!("in_progress"), &json!(true)));
    assert_eq!((&running["project"], &running["attempts"]), (&json!("default"), &json!(1)));
    let active = operator.get("/api/background?active=true").await;
    assert_eq!((ids(&active), &active["has_more"]), (vec![&*held], &json!(false)));
    let first = operator.get("/api/background?limit=1").await;
    assert_eq!((ids(&first).len(), &first["has_more"]), (1, &json!(true)));
    let second = operator.get(&format!("/api/background?limit=1&after={}", ids(&first)[0])).await;
    assert_eq!((ids(&second).len(), &second["has_more"]), (1, &json!(false)));
    assert_ne!(ids(&first), ids(&second));
    for (query, param) in [("after=x", "after"), ("limit=0", "limit"), ("active=maybe", "active")] {
        let reply = operator.call(Method::GET, &format!("/api/background?{query}")).await;
        let (status, _, named) = reply.refusal();
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{query}");
    }
    gate.open();
    ended(&gateway.client, &held).await;
}

#[tokio::test]
async fn the_dashboard_lists_background_turns() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let pages = Pages::of(&gateway, &operator).await;
    assert!(pages.text("/responses").await.contains("href=\"/responses/background\""));
    assert!(pages.text("/responses/background").await.contains("No background turns"));
    assert!(pages.text("/responses/background?active=true").await.contains("Nothing runs"));
    let id = queue(&gateway, &body("x")).await;
    ended(&gateway.client, &id).await;
    assert!(pages.text("/responses/background").await.contains(&format!("href=\"/responses/{id}\"")));
    assert!(pages.text("/responses/background?active=true").await.contains("Nothing runs"));
    assert_eq!(pages.get("/responses/background?after=x").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(gateway.client.get("/responses/background").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn the_dashboard_lists_the_conversations_of_a_project_and_their_turns() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let pages = Pages::of(&gateway, &operator).await;
    assert!(pages.text("/responses/conversations").await.contains("No conversations"));
    let secret = operator.key(json!({"name": "laptop", "project": "team"})).await;
    let client = gateway.client.with_secret(&secret);
    let create = async || client.request(Method::POST, "/v1/conversations", &[], "{}").await.ok_id();
    let (used, unused) = (create().await, create().await);
    let turn = client.created(json!({"model": "sim", "input": "x", "conversation": used})).await;
    let items = json!({"items": [{"type": "message", "role": "user", "content": "posted"}]});
    let path = format!("/v1/conversations/{used}/items");
    client.request(Method::POST, &path, &[], items.to_string()).await.ok();
    let list = pages.text("/responses/conversations?project=team").await;
    for id in [&used, &unused] {
        assert!(list.contains(&format!("href=\"/responses/conversations/{id}?project=team\"")), "{list}");
    }
    assert!(
        list.contains("<option value=\"team\" selected>") && list.contains("<option value=\"default\">"),
        "{list}"
    );
    let turns = pages.text(&format!("/responses/conversations/{used}?project=team")).await;
    let links = turns.matches("Open this turn").count();
    assert_eq!(
        (turns.matches("<li class=\"turn\"").count(), links),
        (2, 1),
        "nobody can name posted items: {turns}"
    );
    assert!(turns.contains(&format!("href=\"/responses/{}\"", turn["id"].as_str().unwrap())));
    let nothing = pages.text(&format!("/responses/conversations/{unused}?project=team")).await;
    assert!(nothing.contains("Nothing has been added"));
    let elsewhere = pages.get(&format!("/responses/conversations/{used}?project=default")).await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
    let chain = pages.text(&format!("/responses/{}", turn["id"].as_str().unwrap())).await;
    assert!(chain.contains(&format!("href=\"/responses/conversations/{used}?project=team\"")));
}

#[tokio::test]
async fn the_dashboard_shows_the_first_items_of_a_response_with_very_many() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let pages = Pages::of(&gateway, &operator).await;
    let items = vec![json!({"role": "user", "content": "many"}); 5_000];
    let id = gateway.client.create(json!({"model": "sim", "input": items})).await.ok_id();
    let path = format!("/responses/{id}");
    assert!(pages.text(&path).await.contains("Show its items"));
    let page = pages.post(&path).await;
    assert_eq!(page.status, StatusCode::OK);
    let text = String::from_utf8_lossy(&page.body);
    assert_eq!(text.matches("<details class=\"item\"").count(), 201);
    assert!(text.contains("and 4800 more"), "{text}");
    let whole = operator.get(&format!("/api{path}?bodies=true")).await;
    assert_eq!(whole["bodies"]["input"].as_array().unwrap().len(), 5_000);
}

#[tokio::test]
async fn the_dashboard_shows_a_response_deep_in_its_chain_and_leads_to_the_turns_before() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let pages = Pages::of(&gateway, &operator).await;
    let mut turns: Vec<String> = Vec::new();
    for number in 1..=80 {
        let turn = json!({"model": "sim", "input": format!("question {number}."), "previous_response_id": turns.last()});
        turns.push(gateway.client.create(turn).await.ok_id());
    }
    let numbers = |page: &str| -> Vec<usize> {
        let parts = page.split("class=\"turn-number\">#").skip(1);
        parts.map(|part| part.split('<').next().unwrap().parse().unwrap()).collect()
    };
    for (number, first, last) in [(1, 1, 50), (50, 1, 50), (51, 26, 75), (78, 53, 80), (80, 55, 80)] {
        let path = format!("/responses/{}", turns[number - 1]);
        let page = pages.text(&path).await;
        assert_eq!(numbers(&page), (first..=last).collect::<Vec<_>>(), "turn {number}");
        let shown = page.split("aria-current=\"true\"").nth(1).expect("the turn is marked");
        assert_eq!(numbers(shown).first(), Some(&number));
        assert!(shown.contains("Show its items"));
        let reply = pages.post(&path).await;
        assert!(String::from_utf8_lossy(&reply.body).contains(&format!("question {number}.")));
    }
    let mut path = format!("/responses/{}", turns[77]);
    let mut seen = Vec::new();
    loop {
        let page = pages.text(&path).await;
        seen.push(numbers(&page)[0]);
        let Some((before, _)) = page.split_once("\" rel=\"prev\"") else { break };
        before.rsplit_once("href=\"").unwrap().1.clone_into(&mut path);
    }
    assert_eq!(seen, [53, 3, 1]);
}
