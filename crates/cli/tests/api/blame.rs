//! No client can make an account unusable for other clients.

use std::sync::Arc;

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Client, Gateway, ManualClock, Reply, Setup, eventually, header};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::{listed, simulator};

const TOO_LARGE: &str = "Request too large for sim in organization org-1 on tokens per min (TPM): Limit 30000, Requested \
                         45123. The input or output tokens must be reduced in order to run successfully.";

fn plain(text: &str) -> Value {
    json!({"model": "sim", "input": text})
}

fn error(code: Option<&str>, message: &str) -> String {
    json!({"error": {"message": message, "type": "t", "param": null, "code": code}}).to_string()
}

async fn post(client: &Client, path: &str, body: &Value) -> Reply {
    client.request(Method::POST, path, &[], body.to_string()).await
}

/// Two accounts that are tried in this order, and the clients of two projects. The clock stands still: no cooldown ends.
struct Tenants {
    upstreams: [Simulator; 2],
    gateway: Gateway,
    first: Client,
    second: Client,
}

async fn tenants() -> Tenants {
    tenants_of([simulator().await, simulator().await]).await
}

/// The first upstream has these options.
async fn tenants_with(options: Options) -> Tenants {
    tenants_of([Simulator::bind(options).await.unwrap(), simulator().await]).await
}

async fn tenants_of(upstreams: [Simulator; 2]) -> Tenants {
    let [a, b] = [upstreams[0].url(), upstreams[1].url()];
    let setup = Setup::with_accounts([("a", a.as_str()), ("b", b.as_str())])
        .config("routing.strategy = \"fill_first\"\nrouting.patience = \"1ms\"")
        .clock(&Arc::new(ManualClock::default()));
    let gateway = setup.start().await;
    let operator = Operator::of(&gateway).await;
    let first = gateway.client.with_secret(&operator.key(json!({"name": "first"})).await);
    let second = gateway.client.with_secret(&operator.key(json!({"name": "second"})).await);
    Tenants { upstreams, gateway, first, second }
}

impl Tenants {
    async fn states(&self) -> [&'static str; 2] {
        [self.gateway.account_state("a").await, self.gateway.account_state("b").await]
    }

    /// Waits until neither account is doubted.
    async fn verified(&self) {
        let is_doubted = || self.gateway.app.pool.view().iter().any(|view| view.state.doubt.is_some());
        eventually("no account is doubted", async || !is_doubted()).await;
    }

    /// How many requests each upstream has got.
    fn requests(&self) -> [u64; 2] {
        self.upstreams.each_ref().map(|upstream| upstream.counts().requests)
    }
}

#[tokio::test]
async fn organization_and_project_headers_of_the_client_are_dropped() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let names = ["openai-organization", "openai-project", "openai-beta"];
    let headers = names.map(|name| header(name, "theirs"));
    gateway.client.request(Method::POST, "/v1/responses", &headers, plain("x").to_string()).await.ok();
    let sent = upstream.last_request().unwrap().headers;
    assert_eq!(names.map(|name| sent.contains_key(name)), [false, false, true]);
}

#[tokio::test]
async fn a_401_caused_by_a_request_disables_no_account() {
    let tenants = tenants().await;
    for _ in 0..3 {
        for upstream in &tenants.upstreams {
            upstream.script(Script::http(401, error(Some("invalid_organization"), "m")));
        }
        let reply = tenants.first.create(plain("x")).await;
        assert_eq!(reply.refusal(), (503, Some("no_account_available".to_owned()), None));
        assert_eq!(tenants.second.create(plain("y")).await.status, 200);
    }
    assert_eq!(tenants.states().await, ["ready", "ready"]);
}

#[tokio::test]
async fn a_credential_refused_without_client_content_disables_its_account() {
    let tenants = tenants().await;
    listed(&tenants.upstreams[0]).await;
    tenants.upstreams[0].revoke_credentials(true);
    tenants.first.create(plain("x")).await.ok();
    eventually("the account is disabled", async || tenants.states().await == ["disabled", "ready"]).await;
    assert_eq!(tenants.upstreams[0].counts().requests, 1);
}

/// Upstreams that serve turns, but no list of models: it is refused, or there is none.
fn without_list() -> [Options; 2] {
    [
        Options { refuses_list: true, ..Options::default() },
        Options { lists_models: false, ..Options::default() },
    ]
}

#[tokio::test]
async fn an_account_without_a_list_of_models_is_verified_by_an_empty_turn() {
    for options in without_list() {
        let tenants = tenants_with(options.clone()).await;
        tenants.upstreams[0].script(Script::http(401, error(Some("invalid_organization"), "m")));
        tenants.first.create(plain("x")).await.ok();
        assert_eq!(tenants.requests(), [1, 1], "{options:?}");
        tenants.verified().await;
        assert_eq!(tenants.states().await, ["ready", "ready"], "{options:?}");
        tenants.second.create(plain("y")).await.ok();
        assert_eq!(tenants.requests(), [2, 1], "{options:?}");

        tenants.upstreams[0].revoke_credentials(true);
        tenants.first.create(plain("x")).await.ok();
        eventually("the account is disabled", async || tenants.states().await == ["disabled", "ready"]).await;
    }
}

#[tokio::test]
async fn a_key_that_turns_are_refused_for_is_disabled_though_everybody_gets_the_list() {
    let tenants = tenants_with(Options { public_list: true, ..Options::default() }).await;
    listed(&tenants.upstreams[0]).await;
    tenants.upstreams[0].script(Script::http(401, error(Some("invalid_organization"), "m")));
    tenants.first.create(plain("x")).await.ok();
    tenants.verified().await;
    assert_eq!(tenants.states().await, ["ready", "ready"]);
    tenants.upstreams[0].revoke_credentials(true);
    tenants.first.create(plain("x")).await.ok();
    eventually("the account is disabled", async || tenants.states().await == ["disabled", "ready"]).await;
    let tested = Operator::of(&tenants.gateway).await.post("/api/accounts/a/test").await;
    assert_eq!(tested["answers"], false, "{tested}");
}

#[tokio::test]
async fn a_501_about_what_a_request_contains_takes_no_endpoint_from_others() {
    let tenants = tenants().await;
    let error =
        json!({"error": {"message": "Unknown part type: file", "type": "NotImplementedError", "code": 501}});
    for upstream in &tenants.upstreams {
        upstream.script(Script::http(501, error.to_string()));
    }
    let [_, _, _, (path, body), _] = endpoints();
    assert_eq!(post(&tenants.first, path, &body).await.status, 501);
    assert_eq!(post(&tenants.second, path, &body).await.status, 200);
    assert_eq!(tenants.requests(), [2, 1]);
}

#[tokio::test]
async fn an_account_without_a_list_of_models_that_fails_one_tenant_stays_for_others() {
    for options in without_list() {
        let tenants = tenants_with(options.clone()).await;
        for _ in 0..3 {
            tenants.upstreams[0].script(Script::http(500, error(Some("server_error"), "m")));
            tenants.first.create(plain("x")).await.ok();
        }
        assert_eq!(tenants.requests(), [3, 3], "{options:?}");
        tenants.verified().await;
        assert_eq!(tenants.states().await, ["ready", "ready"], "{options:?}");
        tenants.second.create(plain("y")).await.ok();
        assert_eq!(tenants.requests(), [4, 3], "{options:?}");
    }
}

#[tokio::test]
async fn a_404_about_something_else_does_not_mark_the_model_as_missing() {
    let tenants = tenants().await;
    for message in ["Item with id 'rs_model' not found.", "File 'the model sim does not exist' not found"] {
        tenants.upstreams[0].script(Script::http(404, error(None, message)));
        assert_eq!(tenants.first.create(plain("x")).await.status, 404);
    }
    tenants.second.create(plain("y")).await.ok();
    assert_eq!(tenants.upstreams[0].counts().requests, 3);
    assert_eq!(tenants.upstreams[1].counts().requests, 0, "the first account still has the model");
}

/// Every endpoint with a request that it serves.
fn endpoints() -> [(&'static str, Value); 5] {
    let messages = json!([{"role": "user", "content": "x"}]);
    [
        ("/v1/responses", plain("x")),
        ("/v1/responses/compact", plain("x")),
        ("/v1/responses/input_tokens", plain("x")),
        ("/v1/chat/completions", json!({"model": "sim", "messages": messages})),
        ("/v1/embeddings", plain("x")),
    ]
}

#[tokio::test]
async fn a_model_that_is_refused_at_one_endpoint_is_served_at_all_others() {
    const ONLY: &str = "This model is only supported in v1/responses and not in v1/chat/completions.";
    let refusal = json!({"error": {"message": ONLY, "type": "t", "param": "model", "code": null}});
    for (refused, body) in endpoints() {
        let tenants = tenants().await;
        for upstream in &tenants.upstreams {
            upstream.script(Script::http(404, refusal.to_string()));
        }
        let reply = post(&tenants.first, refused, &body).await;
        assert_eq!((reply.status.as_u16(), reply.json()), (404, refusal.clone()), "{refused}");
        let code = if refused == "/v1/responses" { "model_not_found" } else { "endpoint_not_available" };
        let again = post(&tenants.first, refused, &body).await;
        assert_eq!((again.status.as_u16(), again.refusal().1.as_deref()), (404, Some(code)), "{refused}");
        assert_eq!(tenants.requests(), [1, 1], "{refused}: it is remembered");
        for (path, body) in endpoints().iter().filter(|(path, _)| *path != refused) {
            let reply = post(&tenants.second, path, body).await;
            assert_eq!(reply.status, 200, "{path} after {refused}");
        }
        assert_eq!(tenants.requests(), [5, 1], "{refused}");
    }
}

#[tokio::test]
async fn a_404_about_what_a_request_contains_is_passed_on_and_takes_no_endpoint_from_others() {
    let tenants = tenants().await;
    for (path, body) in endpoints() {
        for message in [
            "No endpoints found that support tool use.",
            "No such File object: file-nope",
            "File 'Invalid URL (POST /v1/chat/completions)' not found",
        ] {
            let error = json!({"error": {"message": message, "code": 404}});
            tenants.upstreams[0].script(Script::http(404, error.to_string()));
            let reply = post(&tenants.first, path, &body).await;
            assert_eq!((reply.status.as_u16(), reply.json()), (404, error), "{path}");
            assert_eq!(post(&tenants.second, path, &body).await.status, 200, "{path} {message}");
        }
    }
    assert_eq!(tenants.requests(), [30, 0]);
}

#[tokio::test]
async fn a_request_that_is_too_large_for_an_account_goes_to_another_and_keeps_nobody_else_from_either() {
    const AFFORD: &str = "This request requires more credits, or fewer max_tokens. You requested up to 64000 tokens, \
                          but can only afford 14640.";
    let limited = Some("rate_limit_exceeded");
    for (status, code, message) in [(402, None, AFFORD), (429, limited, TOO_LARGE), (413, limited, TOO_LARGE)]
    {
        let (tenants, refusal) = (tenants().await, error(code, message));
        let script = Script::http(status, refusal.clone()).header("x-ratelimit-reset-tokens", "0s");
        tenants.upstreams[0].script(script.clone());
        tenants.first.create(plain("x")).await.ok();
        assert_eq!(tenants.requests(), [1, 1], "{message}");
        for upstream in &tenants.upstreams {
            upstream.script(script.clone());
        }
        let reply = tenants.first.create(plain("x")).await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (status, refusal.as_bytes()));
        assert_eq!(tenants.requests(), [2, 2], "neither is asked again: {message}");
        assert_eq!(tenants.states().await, ["ready", "ready"], "{message}");
        tenants.second.create(plain("y")).await.ok();
        assert_eq!(tenants.requests(), [3, 2], "{message}");
    }
}

#[tokio::test]
async fn an_account_that_can_afford_no_request_cools_down() {
    let tenants = tenants().await;
    let afford = "This request requires more credits, or fewer max_tokens. You requested up to 64000 tokens, but can only \
                  afford 0. To increase, visit https://example.com/credits";
    tenants.upstreams[0].script(Script::http(402, error(None, afford)));
    tenants.first.create(plain("x")).await.ok();
    assert_eq!((tenants.requests(), tenants.states().await), ([1, 1], ["cooling", "ready"]));
}

#[tokio::test]
async fn a_request_that_an_event_calls_too_large_makes_no_account_cool_down() {
    let failed = Script::answer("a b").failed("rate_limit_exceeded", TOO_LARGE);
    let event = json!({"type": "error", "code": "rate_limit_exceeded", "message": TOO_LARGE, "param": null});
    let first_event = Script::stream_bytes(format!("event: error\ndata: {event}\n\n"));
    for (script, stream, requests) in
        [(first_event, true, [1, 1]), (failed.clone(), false, [1, 1]), (failed, true, [1, 0])]
    {
        let tenants = tenants().await;
        tenants.upstreams[0].script(script.clone());
        let body = json!({"model": "sim", "input": "x", "stream": stream});
        assert_eq!(tenants.first.create(body).await.status, 200, "{script:?}");
        tenants.gateway.idle().await;
        assert_eq!(
            (tenants.requests(), tenants.states().await),
            (requests, ["ready", "ready"]),
            "{script:?}"
        );
    }
    // If it is too large for all, the client gets what the last upstream says.
    let tenants = tenants().await;
    for upstream in &tenants.upstreams {
        upstream.script(Script::answer("a b").failed("rate_limit_exceeded", TOO_LARGE));
    }
    let response = tenants.first.created(plain("x")).await;
    let told = (&response["status"], &response["error"]["message"]);
    assert_eq!((told, tenants.requests()), ((&json!("failed"), &json!(TOO_LARGE)), [1, 1]));
    assert_eq!(tenants.states().await, ["ready", "ready"]);
}

#[tokio::test]
async fn failing_requests_of_one_tenant_do_not_affect_other_tenants() {
    let tenants = tenants().await;
    for _ in 0..12 {
        assert_ne!(tenants.first.create(plain("ERROR{500}")).await.status, 200);
    }
    assert_eq!(tenants.states().await, ["ready", "ready"]);
    let before = tenants.upstreams[0].counts().requests;
    for _ in 0..5 {
        tenants.second.create(plain("y")).await.ok();
    }
    assert_eq!(tenants.upstreams[0].counts().requests, before + 5);
}

#[tokio::test]
async fn an_account_that_fails_several_tenants_cools_down_for_all() {
    let tenants = tenants().await;
    tenants.upstreams[0].always(Script::http(500, error(Some("server_error"), "m")));
    for client in [&tenants.first, &tenants.second, &tenants.first] {
        client.create(plain("x")).await.ok();
    }
    assert_eq!(tenants.states().await, ["cooling", "ready"]);
}

#[tokio::test]
async fn a_request_at_an_endpoint_that_all_upstreams_lack_does_not_end_cooldowns() {
    let lacking = || Simulator::bind(Options { other_endpoints: false, ..Options::default() });
    let tenants = tenants_of([lacking().await.unwrap(), lacking().await.unwrap()]).await;
    let reply = post(&tenants.first, "/v1/embeddings", &plain("x")).await;
    assert_eq!(reply.refusal(), (404, Some("endpoint_not_available".to_owned()), None));
    tenants.upstreams[0].always(Script::http(500, error(Some("server_error"), "m")));
    for client in [&tenants.first, &tenants.second, &tenants.first] {
        client.create(plain("x")).await.ok();
    }
    assert_eq!(tenants.states().await, ["cooling", "ready"]);
}

#[tokio::test]
async fn the_last_usable_account_never_cools_down_for_failures() {
    let mut tenants = tenants().await;
    let [upstream, dead] = &mut tenants.upstreams;
    upstream.always(Script::http(500, error(Some("server_error"), "m")));
    std::mem::replace(dead, simulator().await).shutdown().await;
    for _ in 0..10 {
        for client in [&tenants.first, &tenants.second] {
            assert!(client.create(plain("x")).await.status.is_server_error());
        }
    }
    upstream.always(Script::answer("at last"));
    tenants.second.create(plain("x")).await.ok();
    assert_eq!(tenants.states().await, ["ready", "ready"]);
}

#[tokio::test]
async fn a_turn_waits_for_an_account_whose_cooldown_ends_soon() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let limited = Script::http(429, error(Some("rate_limit_exceeded"), "m"));
    upstream.script(limited.clone().header("retry-after", "1"));
    gateway.client.create(plain("x")).await.ok();
    assert_eq!(upstream.counts().requests, 2);
    upstream.script(limited.header("retry-after", "60"));
    let reply = gateway.client.create(plain("x")).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (429, Some("60")));
}

#[tokio::test]
async fn a_collected_turn_that_is_cut_off_fails_over() {
    for settings in
        ["transport = \"http\"", "transport = \"http\"\nstream_only = true", "transport = \"websocket\""]
    {
        let (first, second) = (simulator().await, simulator().await);
        let setup = Setup::with_accounts([("a", first.url().as_str()), ("b", second.url().as_str())])
            .account(0, settings)
            .config("routing.strategy = \"fill_first\"");
        let gateway = setup.start().await;
        first.script(Script::answer("a b c d e f").cut_after(4));
        gateway.client.create(plain("x")).await.ok();
        assert_eq!((first.counts().requests, second.counts().requests), (1, 1), "{settings}");
    }
}

#[tokio::test]
async fn a_request_that_fails_on_several_accounts_counts_against_its_caller() {
    let tenants = tenants().await;
    let operator = Operator::of(&tenants.gateway).await;
    let limits = json!({"requests_per_minute": 1});
    let secret = operator.key(json!({"name": "limited", "limits": limits})).await;
    let client = tenants.gateway.client.with_secret(&secret);
    for upstream in &tenants.upstreams {
        upstream.script(Script::http(500, error(Some("server_error"), "m")));
    }
    assert_eq!(client.create(plain("x")).await.status, 500);
    eventually("the request is counted", async || client.create(plain("x")).await.status == 429).await;
}
