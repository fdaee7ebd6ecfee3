//! What admins can do, and viewers cannot.

use std::sync::Arc;

use antiphon_access::admin::Role;
use antiphon_testkit::{ManualClock, header};
use http::Method;
use serde_json::json;

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_creates_a_key_uses_it_and_revokes_it() {
    // No minute begins between a turn and the look at the limits.
    let rig = Rig::start_at(&Arc::new(ManualClock::default())).await;
    rig.sign_in(Role::Admin).await;
    rig.visit("/keys").await;
    rig.until_shown("No keys yet").await;
    rig.assert_well_made().await;
    rig.click("a[href='/keys/new']").await;
    rig.until_at("/keys/new").await;
    rig.assert_well_made().await;
    rig.type_into("input[name=name]", "laptop").await;
    rig.type_into("input[name=models]", "sim, gpt-*").await;
    rig.type_into("input[name=requests_per_minute]", "60").await;
    rig.type_into("input[name=budget]", "12.5").await;
    rig.click("button.primary").await;
    rig.until("document.getElementById('secret')").await;
    rig.assert_well_made().await;
    let secret = rig.run("return document.getElementById('secret').textContent").await;
    let client = rig.gateway.client.with_secret(secret.as_str().unwrap());
    client.created(json!({"model": "sim", "input": "x"})).await;
    rig.click("main p a.button").await;
    rig.until_at("/keys/laptop").await;
    rig.until_shown("requests per minute").await;
    assert!(!rig.text().await.contains(secret.as_str().unwrap()), "it is shown once");
    rig.visit("/keys").await;
    rig.until_shown("laptop").await;
    assert!(rig.text().await.contains("1 / 60"), "{}", rig.text().await);
    rig.assert_well_made().await;
    rig.visit("/keys/laptop").await;
    rig.until_shown("No client that says its name").await;
    rig.assert_well_made().await;
    let turn = json!({"model": "sim", "input": "x"}).to_string();
    let headers = [header("user-agent", "<b>curl</b>/8.5 (Linux)")];
    assert_eq!(client.request(Method::POST, "/v1/responses", &headers, turn).await.status, 200);
    rig.visit("/keys/laptop").await;
    rig.until_shown("<b>curl</b>/8.5").await;
    rig.assert_well_made().await;
    rig.click("form[action='/keys/laptop/revoke'] button").await;
    rig.confirm().await;
    rig.until_shown("Revoked").await;
    assert_eq!(client.create(json!({"model": "sim", "input": "x"})).await.status, 401);
    rig.visit("/settings/audit").await;
    rig.until_shown("key.revoked").await;
    assert!(rig.text().await.contains("session_"), "the log names the session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_reads_and_changes_nothing() {
    let rig = Rig::start().await;
    let admin = rig.gateway.client.with_secret(&rig.token(Role::Admin).await);
    let created = admin.request(Method::POST, "/api/keys", &[], json!({"name": "laptop"}).to_string()).await;
    assert_eq!(created.status, 201);
    rig.sign_in(Role::Viewer).await;
    for page in ["/keys", "/keys/laptop", "/accounts", "/accounts/one", "/settings"] {
        rig.visit(page).await;
        rig.until("document.querySelector('main h1')").await;
        let forms = rig.run("return document.querySelectorAll('main form[method=post]').length").await;
        assert_eq!(forms, 0, "{page}");
    }
    let post = "const done = arguments[0]; fetch('/keys/laptop/revoke', {method: 'POST', headers: \
                {'content-type': 'application/x-www-form-urlencoded'}}).then(reply => done(reply.status))";
    assert_eq!(rig.run_async(post).await, 403);
    let token = rig.token(Role::Viewer).await;
    let viewer = rig.gateway.client.with_secret(&token);
    viewer.get("/api/keys/laptop").await.ok();
    for (method, path) in [
        (Method::POST, "/api/keys/laptop/revoke"),
        (Method::DELETE, "/api/keys/laptop"),
        (Method::POST, "/api/accounts/one/pause"),
        (Method::DELETE, "/api/sessions"),
        (Method::POST, "/api/tokens/viewer"),
    ] {
        let reply = viewer.request(method, path, &[], "").await;
        assert_eq!(reply.refusal(), (403, Some("read_only".into()), None), "{path}");
    }
    assert_eq!(admin.get("/api/keys/laptop").await.ok()["state"], "active");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_of_other_sites_are_refused() {
    let rig = Rig::start().await;
    let token = rig.token(Role::Admin).await;
    let form = header("content-type", "application/x-www-form-urlencoded");
    let own = header("origin", &format!("http://{}", rig.gateway.address()));
    let login = async |origin| {
        let headers = [form.clone(), origin];
        rig.gateway.client.request(Method::POST, "/login", &headers, format!("token={token}")).await
    };
    assert_eq!(login(header("origin", "https://evil.example")).await.status, 403);
    let signed_in = login(own.clone()).await;
    assert_eq!(signed_in.status, 303);
    let cookie = signed_in.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    let cookie = header("cookie", cookie.split(';').next().unwrap());
    let pause = async |origin: Option<_>| {
        let headers: Vec<_> =
            [Some(form.clone()), Some(cookie.clone()), origin].into_iter().flatten().collect();
        rig.gateway.client.request(Method::POST, "/accounts/one/pause", &headers, "").await.status
    };
    assert_eq!(pause(None).await, 403);
    assert_eq!(pause(Some(header("origin", "null"))).await, 403);
    assert_eq!(pause(Some(header("sec-fetch-site", "cross-site"))).await, 403);
    assert_eq!(pause(Some(own)).await, 303);
    assert_eq!(rig.gateway.account_state("one").await, "paused");
}
