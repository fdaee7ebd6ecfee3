//! Every screen, and what it says.

use antiphon_access::admin::Role;

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_screen_is_well_made() {
    let rig = Rig::start().await;
    rig.sign_in(Role::Admin).await;
    for path in ["/keys", "/accounts", "/accounts/one", "/settings", "/settings/audit"] {
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
