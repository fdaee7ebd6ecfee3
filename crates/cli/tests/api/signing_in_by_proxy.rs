//! Signing in to the dashboard through an authenticating proxy, which these tests play.

use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::Simulator;
use antiphon_testkit::{Gateway, ManualClock, Reply, Setup, header};
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;

use crate::administering::Operator;
use crate::signing_in::{assert_refused, cookies, text, value};
use crate::simulator;

const NAME: &str = "x-forwarded-user";
const GROUPS: &str = "x-forwarded-groups";

const BY_GROUPS: &str = "proxy_sign_in.role_header = \"x-forwarded-groups\"\nproxy_sign_in.admin_values = [\"ops\"]\n\
                         proxy_sign_in.viewer_values = [\"staff\"]";

struct Rig {
    gateway: Gateway,
    /// It stands still.
    clock: Arc<ManualClock>,
    operator: Operator,
    _upstream: Simulator,
}

impl Rig {
    /// A gateway that trusts these tests.
    async fn start(lines: &str) -> Self {
        Self::start_behind("127.0.0.0/8", lines).await
    }

    /// A gateway that trusts a proxy at these addresses.
    async fn start_behind(addresses: &str, lines: &str) -> Self {
        let upstream = simulator().await;
        let proxy = format!(
            "proxy_sign_in.header = \"X-Forwarded-User\"\nproxy_sign_in.addresses = [\"{addresses}\"]"
        );
        let clock = Arc::new(ManualClock::default());
        let config = format!("{proxy}\n{lines}");
        let gateway = Setup::over(&upstream).config(&config).clock(&clock).start().await;
        Self { operator: Operator::of(&gateway).await, gateway, clock, _upstream: upstream }
    }

    async fn get(&self, path: &str, headers: &[(&'static str, &str)]) -> Reply {
        let headers: Vec<_> = headers.iter().map(|(name, value)| header(name, value)).collect();
        self.gateway.client.request(Method::GET, path, &headers, "").await
    }

    /// Sends a form of a page of this gateway.
    async fn post(&self, path: &str, headers: &[(&'static str, &str)], body: &str) -> Reply {
        let own = [("sec-fetch-site", "same-origin")];
        let headers = headers.iter().chain(&own).map(|(name, value)| header(name, value)).collect::<Vec<_>>();
        self.gateway.client.request(Method::POST, path, &headers, body.to_owned()).await
    }

    /// The cookie of somebody who signs in.
    async fn session(&self, headers: &[(&'static str, &str)]) -> String {
        session_in(&self.get("/login", headers).await)
    }

    /// The cookie of a session that is opened with the admin token.
    async fn token_session(&self) -> String {
        let reply = self.post("/login", &[], &format!("token={}", self.operator.token)).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{}", text(&reply));
        value(&cookies(&reply)[0]).to_owned()
    }

    async fn sessions(&self) -> Vec<Value> {
        self.operator.get("/api/sessions").await["sessions"].as_array().unwrap().clone()
    }

    /// The role in the session of an operator.
    async fn role_of(&self, name: &str) -> Value {
        let sessions = self.sessions().await;
        sessions.iter().find(|session| session["operator"] == name).unwrap()["role"].clone()
    }

    /// The newest entry of the audit log with this action.
    async fn audited(&self, action: &str) -> Value {
        let audit = self.operator.get("/api/audit").await;
        let mut entries = audit["entries"].as_array().unwrap().iter();
        let found = entries.find(|entry| entry["action"] == action);
        found.unwrap_or_else(|| panic!("{action} is not in {audit}")).clone()
    }
}

#[track_caller]
fn session_in(reply: &Reply) -> String {
    assert_eq!(reply.status, StatusCode::OK, "{}", text(reply));
    let [cookie] = &cookies(reply)[..] else { panic!("{:?}", reply.headers) };
    value(cookie).to_owned()
}

#[track_caller]
fn assert_leads_to(reply: &Reply, page: &str) {
    assert_eq!((reply.status, reply.header("location")), (StatusCode::SEE_OTHER, Some(page)));
}

#[tokio::test]
async fn whoever_the_proxy_names_gets_a_session_with_their_name() {
    let rig = Rig::start("").await;
    let ada = (NAME, "ada@example.com");
    assert_leads_to(&rig.get("/keys?after=a", &[ada]).await, "/login?next=%2Fkeys%3Fafter%3Da");
    let reply = rig.get("/login?next=%2Fkeys%3Fafter%3Da", &[ada, ("x-forwarded-proto", "https")]).await;
    assert_eq!(reply.header("refresh"), Some("0;url=/keys?after=a"));
    let cookie = &cookies(&reply)[0];
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200; Secure"), "{cookie}");
    let session = session_in(&reply);
    let settings = rig.get("/settings", &[ada, ("cookie", &session)]).await;
    assert!(
        text(&settings).matches("ada@example.com").count() >= 3,
        "in the bar, the sessions and the audit log"
    );
    let reply =
        rig.get("/login?next=/keys", &[ada, ("cookie", &session), ("sec-fetch-site", "same-origin")]).await;
    assert_leads_to(&reply, "/keys");
    assert_eq!(cookies(&reply), [""; 0], "it has a session");
    let [listed] = &rig.sessions().await[..] else { panic!("one session") };
    assert_eq!(
        (listed["operator"].as_str(), listed["role"].as_str()),
        (Some("ada@example.com"), Some("viewer"))
    );
    let opened = rig.audited("session.opened").await;
    assert_eq!(
        (&opened["operator"], &opened["detail"]["subject"]),
        (&listed["operator"], &listed["operator"])
    );
    assert_eq!((&opened["target"], &opened["detail"]["address"]), (&listed["id"], &"127.0.0.1".into()));
    let reply = rig.get("/login?next=%2F%2Fevil.example", &[ada]).await;
    assert_eq!(reply.header("refresh"), Some("0;url=/"));
}

#[tokio::test]
async fn the_values_decide_on_the_role_and_nobody_else_gets_in() {
    let rig = Rig::start(BY_GROUPS).await;
    for (groups, role) in [("staff,ops", "admin"), ("x , staff", "viewer"), ("ops", "admin")] {
        rig.session(&[(NAME, groups), (GROUPS, groups)]).await;
        assert_eq!(rig.role_of(groups).await, role);
    }
    let viewer = [(NAME, "bo"), (GROUPS, "staff")];
    let session = rig.session(&viewer).await;
    let with_session = [viewer[0], viewer[1], ("cookie", &session)];
    assert_eq!(rig.post("/accounts/one/pause", &with_session, "").await.status, StatusCode::FORBIDDEN);
    let no_role = "&lt;b&gt;eve&lt;/b&gt; has no role in this gateway";
    for groups in ["", ",", "OPS", "ops staff", "opsy"] {
        assert_refused(&rig.get("/login", &[(NAME, "<b>eve</b>"), (GROUPS, groups)]).await, 403, no_role);
    }
    assert_refused(&rig.get("/login", &[(NAME, "<b>eve</b>")]).await, 403, no_role);
    assert_eq!(rig.sessions().await.len(), 4);
}

#[tokio::test]
async fn without_a_header_of_roles_the_name_decides() {
    let lines = "proxy_sign_in.admin_values = [\"ada\"]\nproxy_sign_in.default_role = \"viewer\"";
    let rig = Rig::start(lines).await;
    for (name, role) in [("ada", "admin"), ("Ada", "viewer"), ("eve,ada", "viewer")] {
        rig.session(&[(NAME, name), (GROUPS, "ada")]).await;
        assert_eq!(rig.role_of(name).await, role);
    }
}

#[tokio::test]
async fn headers_from_another_address_name_nobody() {
    let rig = Rig::start_behind("192.0.2.0/24", BY_GROUPS).await;
    let forged =
        [(NAME, "ada"), (GROUPS, "ops"), ("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "192.0.2.1")];
    let reply = rig.get("/login", &forged).await;
    assert_refused(&reply, 200, "Sign in");
    assert_refused(&rig.get("/login", &[(NAME, "")]).await, 200, "Sign in");
    let session = rig.token_session().await;
    let reply = rig.get("/keys", &[(NAME, "eve"), ("cookie", &session)]).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_leads_to(&rig.get("/logout", &forged).await, "/login");
    assert_leads_to(&rig.post("/logout", &[(NAME, "eve"), ("cookie", &session)], "").await, "/login");
    assert_eq!(rig.sessions().await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_header_that_does_not_hold_one_name_is_refused() {
    let rig = Rig::start(BY_GROUPS).await;
    let (ada, ops) = ((NAME, "ada"), (GROUPS, "ops"));
    let longest = "x".repeat(256);
    for (headers, why) in [
        (&[ada, (NAME, "eve"), ops][..], "x-forwarded-user of the proxy is not valid: there are two"),
        (&[ada, ada, ops], "there are two"),
        (&[ada, ops, (GROUPS, "staff")], "x-forwarded-groups of the proxy is not valid: there are two"),
        (&[(NAME, ""), ops], "it is empty"),
        (&[(NAME, " "), ops], "it is empty"),
        (&[(NAME, &format!("{longest}x")), ops], "it is longer than 256 bytes"),
        (&[(NAME, "a\tb"), ops], "it is not printable text"),
        (&[ada, (GROUPS, "ops\tstaff")], "it is not printable text"),
    ] {
        assert_refused(&rig.get("/login", headers).await, 400, why);
    }
    for bytes in [&b"ada\xff"[..], "ada\u{85}".as_bytes()] {
        let name = (NAME, HeaderValue::from_bytes(bytes).unwrap());
        let reply =
            rig.gateway.client.request(Method::GET, "/login", &[name, header(GROUPS, "ops")], "").await;
        assert_refused(&reply, 400, "it is not printable text");
    }
    let session = rig.session(&[(NAME, &longest), ops]).await;
    let reply = rig.get("/keys", &[ada, (NAME, &longest), ops, ("cookie", &session)]).await;
    assert_leads_to(&reply, "/login?next=%2Fkeys");
    assert_eq!(rig.sessions().await.len(), 1);
}

#[tokio::test]
async fn a_session_is_only_for_the_operator_whom_the_proxy_names() {
    let rig = Rig::start(BY_GROUPS).await;
    let ops = (GROUPS, "ops");
    let session = rig.session(&[(NAME, "ada"), ops]).await;
    let cookie = ("cookie", session.as_str());
    assert_eq!(rig.get("/keys", &[(NAME, "ada"), ops, cookie]).await.status, StatusCode::OK);
    assert_eq!(rig.get("/keys", &[cookie]).await.status, StatusCode::OK, "the proxy names nobody");
    for others in [[(NAME, "bo"), ops], [(NAME, "ada"), (GROUPS, "staff")], [(NAME, "ada"), (GROUPS, "")]] {
        let reply = rig.get("/keys", &[others[0], others[1], cookie]).await;
        assert_leads_to(&reply, "/login?next=%2Fkeys");
        let reply = rig.post("/accounts/one/pause", &[others[0], others[1], cookie], "").await;
        assert_leads_to(&reply, "/login");
    }
    let of_bo = session_in(&rig.get("/login", &[(NAME, "bo"), ops, cookie]).await);
    let [listed] = &rig.sessions().await[..] else { panic!("that of the other operator has ended") };
    assert_eq!(listed["operator"], "bo");
    assert_eq!(rig.audited("session.ended").await["operator"], "bo");
    assert_leads_to(&rig.get("/keys", &[(NAME, "ada"), ops, cookie]).await, "/login?next=%2Fkeys");
    assert_eq!(rig.get("/keys", &[(NAME, "bo"), ops, ("cookie", &of_bo)]).await.status, StatusCode::OK);
    let with_token = rig.token_session().await;
    let reply = rig.get("/keys", &[(NAME, "bo"), (GROUPS, ""), ("cookie", &with_token)]).await;
    assert_eq!(reply.status, StatusCode::OK, "a token needs no name");
}

#[tokio::test]
async fn whoever_signs_out_is_not_signed_in_again_at_once() {
    let rig = Rig::start("proxy_sign_in.default_role = \"admin\"").await;
    let ada = (NAME, "ada");
    for path in ["/logout", "/settings/sessions/end-all"] {
        let session = rig.session(&[ada]).await;
        assert_leads_to(&rig.post(path, &[ada, ("cookie", &session)], "").await, "/logout");
        let reply = rig.get("/logout", &[ada, ("cookie", &session)]).await;
        assert_refused(&reply, 200, "The proxy in front of this dashboard still knows you");
        assert!(text(&reply).contains("href=\"/login\""), "{}", text(&reply));
        assert_eq!(rig.sessions().await, [] as [Value; 0]);
        assert_leads_to(&rig.get("/keys", &[ada, ("cookie", &session)]).await, "/login?next=%2Fkeys");
    }
}

#[tokio::test]
async fn an_operator_whom_a_proxy_names_opens_so_many_sessions_at_most() {
    let rig = Rig::start("").await;
    let ada = (NAME, "ada");
    let mut session = String::new();
    for _ in 0..30 {
        session = rig.session(&[ada]).await;
    }
    let refused = rig.get("/login", &[ada]).await;
    assert_refused(&refused, 429, "Too many sign-ins under this name. Please try again in 2 s.");
    assert_eq!(refused.header("retry-after"), Some("2"));
    assert_eq!(rig.sessions().await.len(), 30);
    assert_eq!(rig.get("/keys", &[ada, ("cookie", &session)]).await.status, StatusCode::OK);
    rig.session(&[(NAME, "bo")]).await;
    rig.clock.advance(Duration::from_secs(2));
    rig.session(&[ada]).await;
}

#[tokio::test]
async fn a_page_of_another_site_signs_nobody_in() {
    let rig = Rig::start("").await;
    for site in ["cross-site", "same-site"] {
        let headers = [(NAME, "ada"), ("sec-fetch-site", site)];
        let reply = rig.get("/login?next=/keys", &headers).await;
        assert_eq!(
            (reply.status, reply.header("refresh")),
            (StatusCode::OK, Some("0;url=/login?next=%2Fkeys"))
        );
        assert_eq!(cookies(&reply), [""; 0]);
    }
    assert_eq!(rig.sessions().await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_name_of_loopback_that_is_not_allowed_signs_nobody_in() {
    let rig = Rig::start("allowed_hosts = [\"gateway.example\"]").await;
    let ada = (NAME, "ada");
    let session = rig.session(&[ada, ("host", "gateway.example")]).await;
    let evil = ("host", "evil.example:8080");
    assert_refused(&rig.get("/login", &[ada, evil]).await, 403, "evil.example");
    let reply = rig.get("/keys", &[ada, evil, ("cookie", &session)]).await;
    assert_leads_to(&reply, "/login?next=%2Fkeys");
    let reply = rig.get("/keys", &[evil, ("cookie", &session)]).await;
    assert_eq!(reply.status, StatusCode::OK, "no proxy is involved");
}

#[tokio::test]
async fn the_admin_api_needs_a_token_in_any_case() {
    let rig = Rig::start("proxy_sign_in.default_role = \"admin\"").await;
    let session = rig.session(&[(NAME, "ada")]).await;
    for path in ["/api/accounts", "/api/sessions"] {
        let reply = rig.get(path, &[(NAME, "ada"), ("cookie", &session)]).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}
