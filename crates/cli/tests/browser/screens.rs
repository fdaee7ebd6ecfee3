//! Every screen, and what it says.

use std::sync::Arc;

use antiphon_access::admin::Role;
use antiphon_simulator::upstream::Script;
use antiphon_testkit::ManualClock;
use http::Method;
use serde_json::json;

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_screen_is_well_made() {
    let rig = Rig::start().await;
    rig.sign_in(Role::Admin).await;
    for path in ["/", "/?window=30d", "/keys", "/accounts", "/accounts/one", "/settings", "/settings/audit"] {
        rig.visit(path).await;
        rig.until("document.querySelector('nav [aria-current=page]')").await;
        rig.assert_well_made().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_names_are_broken_into_lines() {
    let name = "a_long_name_without_a_break_".repeat(3)[..64].to_owned();
    let rig = Rig::start_with(|setup| {
        setup.and_account(&name, "http://127.0.0.1:9/v1").account(1, "models = [\"other\"]")
    })
    .await;
    let model = "vendor/a_model_with_a_long_name_".repeat(8);
    let turn = rig.gateway.client.created(json!({"model": model, "input": "x"})).await;
    let admin = rig.gateway.client.with_secret(&rig.token(Role::Admin).await);
    let key = json!({"name": name}).to_string();
    assert_eq!(admin.request(Method::POST, "/api/keys", &[], key).await.status, 201);
    rig.sign_in(Role::Admin).await;
    let response = format!("/responses/{}", turn["id"].as_str().unwrap());
    for path in [format!("/keys/{name}"), format!("/accounts/{name}"), response, "/responses".to_owned()] {
        rig.visit(&path).await;
        rig.until("document.querySelector('main h1')").await;
        rig.assert_well_made().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_paused_tested_and_resumed() {
    let rig = Rig::start().await;
    rig.sign_in(Role::Admin).await;
    rig.visit("/accounts").await;
    rig.click("form[action='/accounts/one/pause'] button").await;
    rig.until_at("/accounts/one").await;
    rig.until_shown("paused").await;
    assert_eq!(rig.gateway.account_state("one").await, "paused");
    rig.click("form[action='/accounts/one/resume'] button").await;
    rig.until_shown("ready").await;
    rig.click("form[action='/accounts/one/test'] button").await;
    rig.until_shown("The upstream answers").await;
    rig.assert_well_made().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_show_their_turns_and_errors() {
    // All turns are in one interval of the charts.
    let clock = Arc::new(ManualClock::default());
    let rig = Rig::start_at(&clock).await;
    rig.sign_in(Role::Viewer).await;
    rig.visit("/accounts").await;
    rig.until_shown("Turns by account").await;
    rig.until_shown("Nothing in this time.").await;
    rig.assert_well_made().await;
    for fails in [false, false, false, true] {
        let script = Script::answer("x");
        rig.upstream.script(if fails { script.failed("server_error", "it failed") } else { script });
        rig.gateway.client.create(json!({"model": "gpt-5.4", "input": "x"})).await;
    }
    rig.gateway.logged(4).await;
    rig.visit("/accounts?window=7d").await;
    rig.until_shown("4 turns").await;
    rig.until_shown("25% of all turns").await;
    assert_eq!(rig.run("return document.querySelectorAll('figure.chart').length").await, 2);
    let figures =
        rig.run("return [...document.querySelectorAll('.figures td')].map(cell => cell.textContent)").await;
    assert_eq!(figures, json!(["4", "25%"]), "the same as in the charts");
    let label = rig.run("return document.querySelector('svg.spark').getAttribute('aria-label')").await;
    assert_eq!(label, "Errors: 25%, at most 25% in an interval");
    rig.assert_well_made().await;
    rig.click("nav.choice a[href='/accounts?window=30d']").await;
    rig.until_at("/accounts?window=30d").await;
    rig.click("tbody th a").await;
    rig.until_at("/accounts/one").await;
    rig.until_shown("4 turns, 100% of all, 25% errors").await;
    rig.until("document.querySelector('ul.entries .badge.bad')").await;
    rig.assert_well_made().await;
    rig.click("nav.choice a[href='/accounts/one?window=7d']").await;
    rig.until_at("/accounts/one?window=7d").await;
    rig.click("ul.entries a").await;
    rig.until("location.pathname.startsWith('/responses/resp_')").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_overview_counts_turns_and_shows_those_that_run() {
    let rig = Rig::start().await;
    rig.sign_in(Role::Admin).await;
    rig.until_shown("No turns yet").await;
    rig.until("document.querySelector('[data-live-state=live]')").await;
    let (script, gate) = Script::answer("Hello").gated();
    rig.upstream.script(script);
    let client = rig.gateway.client.clone();
    let turn = tokio::spawn(async move { client.created(json!({"model": "gpt-5.4", "input": "x"})).await });
    rig.until("document.querySelector('[data-live=turns]').textContent === '1'").await;
    gate.open();
    turn.await.unwrap();
    rig.until("document.querySelector('[data-live=turns]').textContent === '0'").await;
    rig.visit("/?window=7d").await;
    rig.until_shown("1 turns").await;
    assert_eq!(rig.run("return document.querySelectorAll('figure.chart').length").await, 4);
    assert_eq!(rig.run("return document.querySelector('.figures td.number').textContent").await, "1");
    rig.assert_well_made().await;
    rig.click("nav.choice a[href='/?window=30d']").await;
    rig.until_at("/?window=30d").await;
}
