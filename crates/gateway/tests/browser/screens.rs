//! Every screen, and what it says.

use antiphon_access::admin::Role;

use antiphon_simulator::upstream::Script;
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
