//! The request log and chains. What tenants write is shown as text.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::admin::Role;
use antiphon_runtime::{Clock, rfc3339};
use antiphon_simulator::upstream::Script;
use antiphon_testkit::{ManualClock, eventually};
use http::Method;
use serde_json::json;

use crate::rig::Rig;

const MARKUP: &str = "<img src=x onerror=alert(1)><b>bold</b>";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_is_found_by_filters_and_opens_in_its_chain() {
    let rig = Rig::start().await;
    rig.sign_in(Role::Admin).await;
    let client = &rig.gateway.client;
    let root = client.created(json!({"model": "gpt-5.4", "input": "root"})).await;
    let turn = |input: &str| json!({"model": "gpt-5.4", "input": input, "previous_response_id": root["id"]});
    let first = client.created(turn("first")).await;
    let second = client.created(turn("second")).await;
    rig.upstream.script(Script::answer("x").failed("server_error", "it failed"));
    client.create(json!({"model": "gpt-4.1-mini", "input": "x"})).await;
    rig.gateway.logged(4).await;
    rig.visit("/responses").await;
    rig.until("document.querySelectorAll('tbody tr').length === 4").await;
    rig.assert_well_made().await;
    rig.run("document.querySelector('select[name=outcome]').value = 'failed'").await;
    rig.click("form[role=search] button[type=submit]").await;
    rig.until("document.querySelectorAll('tbody tr').length === 1").await;
    assert!(rig.path().await.contains("outcome=failed"), "the filter is in the address");
    rig.visit(&format!("/responses/{}", first["id"].as_str().unwrap())).await;
    rig.until("document.querySelectorAll('li.turn').length === 2").await;
    rig.until("document.querySelector('.timeline')").await;
    let branch = format!("a[href='/responses/{}']", second["id"].as_str().unwrap());
    rig.assert_well_made().await;
    rig.click(&format!(".branches {branch}")).await;
    rig.until_at(&format!("/responses/{}", second["id"].as_str().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_of_a_time_are_found_by_when_it_begins_and_ends() {
    let clock = Arc::new(ManualClock::default());
    let rig = Rig::start_at(&clock).await;
    rig.sign_in(Role::Viewer).await;
    let mut ids = Vec::new();
    let mut hours = Vec::new();
    for _ in 0..3 {
        let turn = rig.gateway.client.created(json!({"model": "gpt-5.4", "input": "x"})).await;
        ids.push(turn["id"].as_str().unwrap().to_owned());
        clock.advance(Duration::from_hours(1));
        hours.push(rfc3339(clock.now())[.."2026-11-22T10:00".len()].to_owned());
        clock.advance(Duration::from_hours(1));
    }
    rig.gateway.logged(3).await;
    let filter = async |from: &str, to: &str| {
        rig.visit("/responses").await;
        rig.until("document.querySelectorAll('tbody tr').length === 3").await;
        for (name, value) in [("from", from), ("to", to)] {
            rig.run(&format!("document.querySelector('input[name={name}]').value = {}", json!(value))).await;
        }
        rig.click("form[role=search] button[type=submit]").await;
    };
    let shown = async |expected: &[&String]| {
        rig.until(&format!("document.querySelectorAll('tbody tr').length === {}", expected.len())).await;
        for id in expected {
            assert_eq!(
                rig.run(&format!("return document.querySelectorAll(\"a[href='/responses/{id}']\").length"))
                    .await,
                1
            );
        }
    };
    filter(&hours[0], "").await;
    shown(&[&ids[1], &ids[2]]).await;
    assert!(rig.path().await.contains("from="), "the time is in the address");
    filter(&hours[0], &hours[1]).await;
    shown(&[&ids[1]]).await;
    let kept = "return ['from', 'to'].map(name => document.querySelector(`input[name=${name}]`).value)";
    assert_eq!(rig.run(kept).await, json!([hours[0], hours[1]]));
    rig.assert_well_made().await;
    filter("", &hours[0]).await;
    shown(&[&ids[0]]).await;
    filter(&hours[2], "").await;
    rig.until_shown("No turn matches").await;
    rig.visit("/responses?from=yesterday").await;
    rig.until_shown("expected a time such as").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tenants_write_is_shown_as_text_and_to_admins_only() {
    let rig = Rig::start().await;
    rig.upstream.script(Script::answer(MARKUP));
    let turn = json!({"model": "gpt-5.4", "input": MARKUP, "metadata": {"note": MARKUP}});
    let created = rig.gateway.client.created(turn).await;
    rig.gateway.client.create(json!({"model": MARKUP, "input": "x"})).await;
    rig.gateway.logged(2).await;
    let page = format!("/responses/{}", created["id"].as_str().unwrap());
    rig.sign_in(Role::Viewer).await;
    rig.visit(&page).await;
    rig.until_shown("Only admins see what responses contain").await;
    assert!(!rig.text().await.contains("bold"));
    rig.sign_in(Role::Admin).await;
    rig.visit("/responses").await;
    rig.until_shown(MARKUP).await;
    rig.visit(&page).await;
    rig.click(".items form button").await;
    rig.until("document.querySelectorAll('details.item').length === 2").await;
    rig.run("document.querySelectorAll('details.item').forEach(item => item.open = true)").await;
    assert_eq!(rig.run("return document.querySelectorAll('main img, main b').length").await, 0);
    eventually("all three are shown", async || rig.text().await.matches("<b>bold</b>").count() >= 3).await;
    rig.assert_well_made().await;
    rig.visit("/settings/audit").await;
    rig.until_shown("response.viewed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_and_background_turns_are_parts_of_the_screen() {
    let rig = Rig::start().await;
    rig.sign_in(Role::Viewer).await;
    let client = &rig.gateway.client;
    rig.visit("/responses").await;
    rig.click("a[href='/responses/conversations']").await;
    rig.until_shown("No conversations").await;
    rig.assert_well_made().await;
    rig.click("a[href='/responses/background']").await;
    rig.until_shown("No background turns").await;
    rig.assert_well_made().await;
    let conversation = client.request(Method::POST, "/v1/conversations", &[], "{}").await.ok_id();
    let turn = json!({"model": "gpt-5.4", "input": "x", "conversation": conversation, "background": true});
    let id = client.create(turn).await.ok_id();
    let path = format!("/v1/responses/{id}");
    eventually("it has ended", async || client.get(&path).await.ok()["status"] == "completed").await;
    rig.visit("/responses/background").await;
    rig.assert_well_made().await;
    rig.click(&format!("a[href='/responses/{id}']")).await;
    rig.until_at(&format!("/responses/{id}")).await;
    rig.visit("/responses/conversations").await;
    rig.assert_well_made().await;
    rig.click("tbody a").await;
    rig.until("document.querySelectorAll('li.turn').length === 1").await;
    rig.click("li.turn summary").await;
    rig.assert_well_made().await;
}
