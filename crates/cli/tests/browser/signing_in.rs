//! Sessions.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::admin::Role;
use antiphon_testkit::{IdentityProvider, ManualClock};
use serde_json::json;

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_signs_in_sees_the_page_that_was_asked_for_and_signs_out() {
    let rig = Rig::start().await;
    let token = rig.token(Role::Admin).await;
    rig.visit("/keys?after=a").await;
    rig.until_at("/login?next=%2Fkeys%3Fafter%3Da").await;
    rig.assert_well_made().await;
    rig.fill_in_token("apn-admin-wrong").await;
    rig.until_shown("not a valid admin token").await;
    rig.console().await;
    rig.fill_in_token(&token).await;
    rig.until_at("/keys?after=a").await;
    assert_eq!(rig.run("return document.cookie").await, "", "no script can read the session");
    rig.click("form[action='/logout'] button").await;
    rig.until_at("/login").await;
    rig.visit("/keys").await;
    rig.until_at("/login?next=%2Fkeys").await;
}

/// The provider is another site to the browser, which then sends fewer cookies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_signs_in_at_the_provider_and_comes_back() {
    let provider = IdentityProvider::start_as("localhost").await;
    provider.ask();
    let rig = Rig::start_with(|setup| setup.config(&provider.config("http://{address}"))).await;
    rig.visit("/keys?after=a").await;
    rig.until_at("/login?next=%2Fkeys%3Fafter%3Da").await;
    rig.assert_well_made().await;
    rig.click("a[href^='/login/provider']").await;
    rig.until("location.hostname === 'localhost' && document.querySelector('#allow')").await;
    rig.click("#allow").await;
    rig.until_at("/keys?after=a").await;
    rig.until_shown("ada@example.com").await;
    // The provider has no icon.
    rig.console().await;
    assert_eq!(rig.run("return document.cookie").await, "", "no script can read the session");
    rig.visit("/settings").await;
    rig.until_shown("this one").await;
    rig.assert_well_made().await;
    rig.click("form[action='/logout'] button").await;
    rig.until_at("/login").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_whom_a_proxy_names_needs_one_session() {
    let proxy = "proxy_sign_in.header = \"x-forwarded-user\"\nproxy_sign_in.addresses = [\"127.0.0.1\"]";
    let rig = Rig::start_with(|setup| setup.config(proxy)).await;
    rig.set_headers(json!({"x-forwarded-user": "ada@example.com"})).await;
    rig.visit("/keys?after=a").await;
    rig.until_at("/keys?after=a").await;
    rig.until_shown("ada@example.com").await;
    // From another site, the browser leaves the cookie out at first.
    let address = rig.gateway.address();
    rig.open(&format!("http://localhost:{}/healthz", address.port())).await;
    rig.run(&format!("location.href = 'http://{address}/settings'")).await;
    rig.until_at("/settings").await;
    rig.until_shown("this one").await;
    assert_eq!(rig.run("return document.querySelectorAll('[aria-label=Sessions] tbody tr').length").await, 1);
    rig.click("form[action='/logout'] button").await;
    rig.until_at("/logout").await;
    rig.until_shown("still knows you").await;
    rig.console().await;
    rig.assert_well_made().await;
    rig.click("a[href='/login']").await;
    rig.until_at("/").await;
    rig.until_shown("ada@example.com").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_after_twelve_hours_and_with_its_token() {
    let clock = Arc::new(ManualClock::default());
    let rig = Rig::start_at(&clock).await;
    rig.sign_in(Role::Admin).await;
    clock.advance(Duration::from_hours(12) - Duration::from_secs(1));
    rig.visit("/keys").await;
    rig.until_at("/keys").await;
    clock.advance(Duration::from_secs(1));
    rig.visit("/keys").await;
    rig.until_at("/login?next=%2Fkeys").await;
    rig.sign_in(Role::Admin).await;
    rig.token(Role::Admin).await;
    rig.visit("/keys").await;
    rig.until_at("/login?next=%2Fkeys").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_signs_out_everywhere() {
    let rig = Rig::start().await;
    rig.sign_in(Role::Admin).await;
    rig.visit("/settings").await;
    rig.until_shown("this one").await;
    rig.click("form[action='/settings/sessions/end-all'] button").await;
    rig.confirm().await;
    rig.until_at("/login").await;
    rig.visit("/settings").await;
    rig.until_at("/login?next=%2Fsettings").await;
}
