//! Signing in to the dashboard with an identity provider.

use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::Simulator;
use antiphon_testkit::{Client, Gateway, IdentityProvider, ManualClock, Reply, Setup, eventually, header};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::simulator;

/// Where browsers would reach the gateway; these tests send their requests to its own address.
const PUBLIC_URL: &str = "https://gateway.example";

struct Rig {
    provider: IdentityProvider,
    gateway: Gateway,
    _upstream: Simulator,
}

/// A browser at the provider, with its cookie for the gateway.
struct Begun {
    /// Where the gateway has sent it, below the provider's origin.
    path: String,
    cookie: String,
}

impl Rig {
    async fn start() -> Self {
        Self::start_with(|setup| setup).await
    }

    async fn start_with(prepare: impl FnOnce(Setup) -> Setup) -> Self {
        let (provider, upstream) = (IdentityProvider::start().await, simulator().await);
        let setup = Setup::over(&upstream).config(&provider.config(PUBLIC_URL));
        Self { gateway: prepare(setup).start().await, provider, _upstream: upstream }
    }

    async fn get(&self, path: &str, cookie: &str) -> Reply {
        let headers = [header("cookie", cookie), header("x-forwarded-proto", "https")];
        self.gateway.client.request(Method::GET, path, &headers, "").await
    }

    async fn begin(&self) -> Begun {
        self.begin_for("/").await
    }

    /// Begins a sign-in that is to lead to a page.
    async fn begin_for(&self, next: &str) -> Begun {
        let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        let reply = self.get(&format!("/login/provider?next={next}"), "").await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{}", text(&reply));
        let origin = self.provider.issuer().strip_suffix("/realm").unwrap();
        let path = reply.header("location").unwrap().strip_prefix(origin).unwrap();
        let [cookie] = &cookies(&reply)[..] else { panic!("one cookie") };
        Begun { path: path.to_owned(), cookie: cookie.clone() }
    }

    /// Has the provider send the browser back: the path at the gateway.
    async fn at_provider(&self, begun: &Begun) -> String {
        let origin = self.provider.issuer().strip_suffix("/realm").unwrap();
        let reply = Client::new(origin).get(&begun.path).await;
        assert_eq!(reply.status, StatusCode::FOUND, "{}", text(&reply));
        reply.header("location").unwrap().strip_prefix(PUBLIC_URL).unwrap().to_owned()
    }

    /// All steps.
    async fn sign_in(&self) -> Reply {
        let begun = self.begin().await;
        let callback = self.at_provider(&begun).await;
        self.get(&callback, value(&begun.cookie)).await
    }

    /// All steps of somebody who is signed in: the session's cookie.
    async fn session(&self) -> String {
        let reply = self.sign_in().await;
        assert_eq!(reply.status, StatusCode::OK, "{}", text(&reply));
        value(&cookies(&reply)[0]).to_owned()
    }

    async fn sessions(&self) -> Value {
        Operator::of(&self.gateway).await.get("/api/sessions").await["sessions"].clone()
    }
}

pub(crate) fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

pub(crate) fn cookies(reply: &Reply) -> Vec<String> {
    reply.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap().to_owned()).collect()
}

/// What a browser sends back of a cookie.
pub(crate) fn value(cookie: &str) -> &str {
    cookie.split(';').next().unwrap()
}

/// Nobody is signed in, and the login page says why.
#[track_caller]
pub(crate) fn assert_refused(reply: &Reply, status: u16, why: &str) {
    assert_eq!(reply.status, status, "{}", text(reply));
    assert!(text(reply).contains(why) && text(reply).contains("name=\"token\""), "{}", text(reply));
    assert_eq!(cookies(reply), [""; 0]);
}

#[tokio::test]
async fn whoever_the_provider_knows_gets_a_session_with_their_name() {
    let rig = Rig::start().await;
    assert!(text(&rig.get("/login?next=/keys", "").await).contains("href=\"/login/provider?next=%2Fkeys\""));
    let begun = rig.begin_for("/keys?after=a").await;
    assert!(
        begun.cookie.ends_with("; Path=/login; HttpOnly; SameSite=Lax; Max-Age=600; Secure"),
        "{}",
        begun.cookie
    );
    let callback = rig.at_provider(&begun).await;
    let reply = rig.get(&callback, value(&begun.cookie)).await;
    assert_eq!((reply.status, reply.header("refresh")), (StatusCode::OK, Some("0;url=/keys?after=a")));
    let [session, ended] = &cookies(&reply)[..] else { panic!("{:?}", reply.headers) };
    assert!(session.ends_with("; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200; Secure"), "{session}");
    assert_eq!(ended, "antiphon_sign_in=; Path=/login; HttpOnly; SameSite=Lax; Max-Age=0; Secure");
    let form = [header("cookie", value(session)), header("sec-fetch-site", "same-origin")];
    let paused = rig.gateway.client.request(Method::POST, "/accounts/one/pause", &form, "").await;
    assert!(paused.status.is_redirection() || paused.status.is_success(), "{}", text(&paused));
    let operator = Operator::of(&rig.gateway).await;
    let sessions = operator.get("/api/sessions").await;
    assert_eq!(
        sessions["sessions"].as_array().unwrap().len(),
        1,
        "a new token ends no session of the provider's"
    );
    assert_eq!(
        (&sessions["sessions"][0]["operator"], &sessions["sessions"][0]["role"]),
        (&json!("ada@example.com"), &json!("admin"))
    );
    let audit = operator.get("/api/audit").await;
    let entry = |action: &str| {
        let mut entries = audit["entries"].as_array().unwrap().iter();
        entries
            .find(|entry| entry["action"] == action)
            .unwrap_or_else(|| panic!("{action} is not in {audit}"))
    };
    assert_eq!(entry("account.paused")["operator"], "ada@example.com");
    assert_eq!(entry("account.paused")["actor"], sessions["sessions"][0]["id"]);
    assert_eq!(entry("session.opened")["detail"]["subject"], "person-1");
    assert_eq!(entry("admin_token.replaced")["operator"], Value::Null);
    let settings = text(&rig.get("/settings", value(session)).await);
    assert!(settings.matches("ada@example.com").count() >= 3, "in the bar, the sessions and the audit log");
}

#[tokio::test]
async fn the_claim_decides_on_the_role_and_nobody_else_gets_in() {
    let rig = Rig::start().await;
    rig.provider.person(json!({"groups": ["staff", "others"]}));
    let session = rig.session().await;
    assert_eq!(rig.sessions().await[0]["role"], "viewer");
    let form = [header("cookie", &session), header("sec-fetch-site", "same-origin")];
    let paused = rig.gateway.client.request(Method::POST, "/accounts/one/pause", &form, "").await;
    assert_eq!(paused.status, StatusCode::FORBIDDEN);
    for groups in
        [json!(null), json!("ops,staff"), json!(["OPS"]), json!({"ops": true}), json!(true), json!([["ops"]])]
    {
        rig.provider.person(json!({"groups": groups, "email": "<b>eve</b>@example.com"}));
        let reply = rig.sign_in().await;
        assert_refused(&reply, 403, "&lt;b&gt;eve&lt;/b&gt;@example.com has no role in this gateway");
    }
    assert_eq!(rig.sessions().await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_sign_in_works_once_and_in_the_browser_that_has_begun_it() {
    let rig = Rig::start().await;
    let (begun, other) = (rig.begin().await, rig.begin().await);
    let callback = rig.at_provider(&begun).await;
    let ended = "This sign-in has expired, or another browser has begun it";
    for cookie in ["", "antiphon_sign_in=", "antiphon_sign_in=00", value(&other.cookie)] {
        assert_refused(&rig.get(&callback, cookie).await, 400, ended);
    }
    let with_other = |name: &str, value: &str| {
        let mut url = url::Url::parse(PUBLIC_URL).unwrap().join(&callback).unwrap();
        let pairs: Vec<(String, String)> =
            url.query_pairs().into_owned().filter(|(key, _)| key != name).collect();
        url.query_pairs_mut().clear().extend_pairs(pairs).append_pair(name, value);
        format!("{}?{}", url.path(), url.query().unwrap())
    };
    for forged in
        [with_other("state", "x"), with_other("state", ""), with_other("iss", "https://evil.example")]
    {
        assert_refused(&rig.get(&forged, value(&begun.cookie)).await, 400, ended);
    }
    assert_eq!(rig.provider.count("/token"), 0, "the provider was asked for nothing");
    let reply = rig.get(&callback, value(&begun.cookie)).await;
    assert_eq!(reply.status, StatusCode::OK, "what others have tried ends nothing: {}", text(&reply));
    assert_refused(&rig.get(&callback, value(&begun.cookie)).await, 400, ended);
    assert_eq!(rig.provider.count("/token"), 1);
    let reply = rig.get(&with_other("state", "x"), value(&other.cookie)).await;
    assert_refused(&reply, 400, ended);
}

#[tokio::test]
async fn a_code_of_another_sign_in_is_refused() {
    let rig = Rig::start().await;
    let (begun, other) = (rig.begin().await, rig.begin().await);
    let (callback, stolen) = (rig.at_provider(&begun).await, rig.at_provider(&other).await);
    let code = |path: &str| path.split_once("code=").unwrap().1.split('&').next().unwrap().to_owned();
    let injected = callback.replace(&code(&callback), &code(&stolen));
    let refused = "The identity provider has refused this sign-in";
    assert_refused(&rig.get(&injected, value(&begun.cookie)).await, 401, refused);
    let begun = rig.begin().await;
    let callback = rig.at_provider(&begun).await;
    let state = callback.split_once("state=").unwrap().1.split('&').next().unwrap();
    let denied = format!("/login/callback?error=access_denied&error_description=%3Cb%3E&state={state}");
    let reply = rig.get(&denied, value(&begun.cookie)).await;
    assert_refused(&reply, 401, refused);
    assert!(!text(&reply).contains("access_denied"), "what the address says is not shown");
    assert_refused(&rig.get(&callback, value(&begun.cookie)).await, 400, "has expired");
}

#[tokio::test]
async fn a_sign_in_has_ten_minutes() {
    let clock = Arc::new(ManualClock::default());
    let rig = Rig::start_with(|setup| setup.clock(&clock)).await;
    let (early, late) = (rig.begin().await, rig.begin().await);
    let (in_time, too_late) = (rig.at_provider(&early).await, rig.at_provider(&late).await);
    rig.provider.person(json!({"exp": 4_000_000_000_u64}));
    clock.advance(Duration::from_secs(599));
    assert_eq!(rig.get(&in_time, value(&early.cookie)).await.status, StatusCode::OK);
    clock.advance(Duration::from_secs(1));
    assert_refused(&rig.get(&too_late, value(&late.cookie)).await, 400, "has expired");
}

#[tokio::test]
async fn a_token_that_is_not_valid_signs_nobody_in() {
    let rig = Rig::start().await;
    let invalid = "The reply of the identity provider is not valid";
    for (claims, restored) in [
        (json!({"iss": "https://evil.example"}), "iss"),
        (json!({"aud": "another"}), "aud"),
        (json!({"aud": []}), "aud"),
        (json!({"aud": ["antiphon", "another"]}), "aud"),
        (json!({"exp": 1_000_000_000}), "exp"),
        (json!({"nonce": "another"}), "nonce"),
        (json!({"nonce": null}), "nonce"),
        (json!({"exp": null}), "exp"),
        (json!({"locale": {"language": "en"}}), "locale"),
    ] {
        rig.provider.person(claims.clone());
        assert_refused(&rig.sign_in().await, 401, invalid);
        rig.provider.forget(restored);
    }
    rig.provider.person(json!({"aud": ["antiphon", "another"], "azp": "another"}));
    assert_refused(&rig.sign_in().await, 401, invalid);
    rig.provider.person(json!({"azp": "antiphon"}));
    rig.session().await;
    rig.provider.sign_with_secret();
    assert_refused(&rig.sign_in().await, 401, invalid);
    rig.provider.forge();
    assert_refused(&rig.sign_in().await, 401, invalid);
    assert_eq!(rig.sessions().await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn another_key_of_the_provider_is_loaded_when_it_is_needed() {
    let rig = Rig::start().await;
    for _ in 0..2 {
        rig.session().await;
    }
    assert_eq!(rig.provider.count("/jwks"), 1);
    rig.provider.replace_key();
    for _ in 0..2 {
        rig.session().await;
    }
    assert_eq!(rig.provider.count("/jwks"), 2);
}

#[tokio::test]
async fn a_key_under_the_id_of_the_one_before_is_loaded_when_it_is_needed() {
    let rig = Rig::start().await;
    rig.provider.replace_key();
    rig.session().await;
    rig.provider.renew_key();
    for _ in 0..2 {
        rig.session().await;
    }
    let loaded = rig.provider.count("/jwks");
    assert_eq!(loaded, 2);
    rig.provider.forge();
    for _ in 0..10 {
        assert_refused(&rig.sign_in().await, 401, "The reply of the identity provider is not valid");
    }
    assert!(rig.provider.count("/jwks") < loaded + 10, "not for every token");
}

#[tokio::test]
async fn a_provider_that_cannot_be_used_leaves_the_login_with_a_token() {
    let rig = Rig::start().await;
    let unavailable = "The identity provider cannot be used right now";
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20));
    // Until it is tried again.
    let begins = async || {
        eventually("the provider is used again", async || {
            rig.get("/login/provider", "").await.status == StatusCode::SEE_OTHER
        })
        .await;
    };
    rig.provider.fail("/", 503, "");
    assert_refused(&rig.get("/login/provider?next=%2Fkeys", "").await, 502, unavailable);
    let requests = rig.provider.count("/.well-known/openid-configuration");
    assert_refused(&rig.get("/login/provider", "").await, 502, unavailable);
    assert_eq!(
        rig.provider.count("/.well-known/openid-configuration"),
        requests,
        "it is left alone for a moment"
    );
    let token = Operator::of(&rig.gateway).await.token;
    let form = [header("sec-fetch-site", "same-origin")];
    let reply = rig.gateway.client.request(Method::POST, "/login", &form, format!("token={token}")).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
    rig.provider.recover();
    begins().await;
    for (status, body) in [(500, ""), (200, "{}"), (200, "no JSON"), (200, huge.as_str()), (302, "")] {
        let begun = rig.begin().await;
        let callback = rig.at_provider(&begun).await;
        rig.provider.fail("/token", status, body);
        assert_refused(&rig.get(&callback, value(&begun.cookie)).await, 502, unavailable);
        rig.provider.recover();
    }
}

#[tokio::test]
async fn what_the_provider_says_of_itself_is_checked() {
    for metadata in [
        json!({"issuer": "https://evil.example"}),
        json!({"authorization_endpoint": "http://id.example/authorize"}),
        json!({"jwks_uri": "http://id.example/jwks"}),
        json!({"jwks_uri": null}),
    ] {
        let rig = Rig::start().await;
        rig.provider.metadata(metadata.clone());
        let reply = rig.get("/login/provider", "").await;
        assert_refused(&reply, 502, "The identity provider cannot be used right now");
    }
    let rig = Rig::start().await;
    rig.provider.metadata(json!({"token_endpoint": "http://id.example/token"}));
    assert_refused(&rig.sign_in().await, 502, "The identity provider cannot be used right now");
    let rig = Rig::start().await;
    rig.provider.metadata(json!({"token_endpoint_auth_methods_supported": ["client_secret_post"]}));
    rig.session().await;
}

#[tokio::test]
async fn a_sign_in_leads_to_pages_of_this_gateway_only() {
    let rig = Rig::start().await;
    let long = format!("/{}", "x".repeat(4000));
    for next in
        ["//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "keys", "", &long]
    {
        let begun = rig.begin_for(next).await;
        let callback = rig.at_provider(&begun).await;
        let reply = rig.get(&callback, value(&begun.cookie)).await;
        assert_eq!(reply.header("refresh"), Some("0;url=/"), "{next:?}");
    }
}

#[tokio::test]
async fn an_address_begins_so_many_sign_ins_at_most() {
    let rig = Rig::start_with(|setup| setup.clock(&Arc::new(ManualClock::default()))).await;
    for _ in 0..30 {
        rig.begin().await;
    }
    let reply = rig.get("/login/provider", "").await;
    assert_refused(&reply, 429, "Too many sign-ins from this address");
    assert_eq!(reply.header("retry-after"), Some("2"));
}

#[tokio::test]
async fn without_a_provider_there_is_nothing_to_begin() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    for path in ["/login/provider", "/login/callback?code=a&state=b"] {
        assert_eq!(gateway.client.get(path).await.status, StatusCode::NOT_FOUND);
    }
    assert!(!text(&gateway.client.get("/login").await).contains("/login/provider"));
}
