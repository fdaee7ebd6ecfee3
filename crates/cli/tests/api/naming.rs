//! Models by the names that people use, and accounts whose credential is wrong.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Setup, eventually, header};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::simulator;

async fn with_models(models: &[&str]) -> Simulator {
    let models = models.iter().map(|model| (*model).to_owned()).collect();
    Simulator::bind(Options { models, ..Options::default() }).await.unwrap()
}

/// As [`with_models`], and without any other model.
async fn with_only(models: &[&str]) -> Simulator {
    let models = models.iter().map(|model| (*model).to_owned()).collect();
    Simulator::bind(Options { models, listed_models_only: true, ..Options::default() }).await.unwrap()
}

fn asking(model: &str) -> Value {
    json!({"model": model, "input": "x"})
}

#[tokio::test]
async fn a_model_that_nobody_lists_is_asked_for_and_one_that_is_listed_goes_where_it_is() {
    let (one, two) = (with_only(&["alpha"]).await, with_models(&["beta"]).await);
    let setup = Setup::with_accounts([("one", one.url().as_str()), ("two", &two.url())]);
    let gateway = setup.config("routing.strategy = \"fill_first\"").start().await;
    gateway.client.get("/v1/models").await.ok();
    gateway.client.created(asking("beta")).await;
    assert_eq!((one.counts().requests, two.counts().requests), (0, 1));
    gateway.client.created(asking("gamma")).await;
    assert_eq!((one.counts().requests, two.counts().requests), (1, 2), "the first one does not have it");
    gateway.client.created(asking("gamma")).await;
    assert_eq!((one.counts().requests, two.counts().requests), (1, 3), "which is remembered");
}

#[tokio::test]
async fn an_upstreams_404_is_passed_on_and_remembered() {
    let upstream = with_only(&["alpha"]).await;
    let gateway = Setup::over(&upstream).start().await;
    for _ in 0..2 {
        let reply = gateway.client.create(asking("gamma-large")).await;
        assert_eq!((reply.status.as_u16(), reply.refusal().1.as_deref()), (404, Some("model_not_found")));
    }
    assert_eq!(upstream.counts().requests, 1);
}

#[tokio::test]
async fn the_globs_of_an_account_are_a_fence() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "models = [\"alpha*\"]").start().await;
    let reply = gateway.client.create(asking("beta")).await;
    assert_eq!((reply.status.as_u16(), upstream.counts().requests), (404, 0));
}

#[tokio::test]
async fn a_model_is_the_same_with_and_without_the_tag_latest() {
    for (listed, asked) in [("llama3:latest", "llama3"), ("llama3", "llama3:latest")] {
        let upstream = with_only(&[listed]).await;
        let gateway = Setup::over(&upstream).start().await;
        gateway.client.get("/v1/models").await.ok();
        gateway.client.created(asking(asked)).await;
        assert_eq!(upstream.last_request().unwrap().json()["model"], listed);
        assert_eq!(gateway.client.get(&format!("/v1/models/{asked}")).await.ok()["id"], listed);
        let key = Operator::of(&gateway).await.key(json!({"name": "k", "models": [asked]})).await;
        let bearer = [header("authorization", &format!("Bearer {key}"))];
        let reply =
            gateway.client.request(Method::POST, "/v1/responses", &bearer, asking(listed).to_string()).await;
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test]
async fn an_upstream_without_a_list_serves_and_shows_its_configured_models() {
    let upstream = Simulator::bind(Options { lists_models: false, ..Options::default() }).await.unwrap();
    let lines = "models = [\"llama3\", \"qwen*\"]\naliases = { \"big\" = \"llama3\" }";
    let gateway = Setup::over(&upstream).account(0, lines).start().await;
    let listed = gateway.client.get("/v1/models").await.ok();
    let ids: Vec<&str> =
        listed["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["llama3", "big"]);
    for model in ["llama3", "qwen3:8b", "big"] {
        gateway.client.created(asking(model)).await;
    }
}

#[tokio::test]
async fn the_error_for_an_unknown_model_names_those_like_it_that_the_key_may_use() {
    let upstream = with_only(&["llama3.1", "llama3.3", "secret-llama3"]).await;
    let gateway = Setup::over(&upstream).start().await;
    let message = |reply: &Value| reply["error"]["message"].as_str().unwrap().to_owned();
    let key =
        Operator::of(&gateway).await.key(json!({"name": "k", "models": ["llama3.1", "llama3.2"]})).await;
    let bearer = [header("authorization", &format!("Bearer {key}"))];
    gateway.client.request(Method::GET, "/v1/models", &bearer, "").await.ok();
    for _ in 0..2 {
        let body = asking("llama3.2").to_string();
        let reply = gateway.client.request(Method::POST, "/v1/responses", &bearer, body).await;
        assert_eq!((reply.status.as_u16(), reply.refusal().1.as_deref()), (404, Some("model_not_found")));
        let message = message(&reply.json());
        assert!(message.ends_with("Did you mean 'llama3.1'?"), "{message}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_found_at_the_start_and_the_client_is_told_whose_it_is() {
    let options = Options { api_key: Some("sk-right".to_owned()), ..Options::default() };
    let upstream = Simulator::bind(options).await.unwrap();
    let gateway = Setup::over(&upstream).account_key("sk-wrong-0123456789").start().await;
    eventually("the account is disabled", async || gateway.account_state("one").await == "disabled").await;
    let reply = gateway.client.create(asking("sim")).await;
    assert_eq!(reply.refusal(), (503, Some("no_account_available".to_owned()), None));
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("The upstream refused the credentials of every account"), "{message}");
    let account = Operator::of(&gateway).await.get("/api/accounts/one").await;
    let refusal = account["refusal"].as_str().unwrap();
    assert!(refusal.starts_with("status 401: Incorrect API key provided"), "{refusal}");
    assert!(!refusal.contains("0123"), "{refusal}");
}

#[tokio::test]
async fn a_403_about_a_header_is_passed_on() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let body = r#"{"error":{"message":"Missing header: X-Tenant","type":"permission_error"}}"#;
    upstream.script(Script::http(403, body));
    let reply = gateway.client.create(asking("sim")).await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (403, body.as_bytes()));
    assert_eq!(gateway.account_state("one").await, "ready");
}
