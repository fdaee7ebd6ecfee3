//! Keys over the admin API.

use antiphon_testkit::{Reply, header};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::gateway;

async fn create(operator: &Operator, key: impl ToString) -> Reply {
    operator.send(Method::POST, "/api/keys", key).await
}

#[tokio::test]
async fn a_new_key_shows_its_secret_once_and_is_listed_by_prefix() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let asked = json!({
        "name": "laptop",
        "models": ["gpt-*", "sim"],
        "expires_at": "2090-03-29T02:30:00+05:45",
        "limits": {"requests_per_minute": 60, "budgets": []},
    });
    let reply = create(&operator, &asked).await;
    assert_eq!(reply.status, 201);
    let mut made = reply.json();
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("apn-") && secret.len() == 68, "{secret}");
    made.as_object_mut().unwrap().remove("secret");
    let shown = operator.get("/api/keys/laptop").await;
    assert_eq!(made, shown);
    assert_eq!(shown["prefix"], secret[..12]);
    assert!(shown["id"].as_str().unwrap().starts_with("key_"));
    assert!(shown["project"].as_str().unwrap().starts_with("proj_"), "it has one of its own");
    assert_eq!((&shown["models"], &shown["limits"]), (&asked["models"], &asked["limits"]));
    assert_eq!((&shown["state"], &shown["expires_at"]), (&json!("active"), &json!("2090-03-28T20:45:00Z")));
    assert_eq!((&shown["revoked_at"], &shown["last_used_at"]), (&Value::Null, &Value::Null));
    let list = operator.get("/api/keys").await;
    assert_eq!(list, json!({"keys": [shown], "has_more": false}));
    assert!(!list.to_string().contains(&secret[12..]));
    let other = create(&operator, json!({"name": "shared", "project": shown["project"]})).await.json();
    assert_eq!(other["project"], shown["project"]);
}

#[tokio::test]
async fn an_invalid_key_request_names_the_parameter() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    create(&operator, json!({"name": "taken"})).await;
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    let long: Vec<String> = (0..40).map(|n| format!("{n:0>250}")).collect();
    let large =
        json!([{"models": long, "requests_per_minute": 1}, {"models": long[1..], "requests_per_minute": 1}]);
    let cases = [
        (json!({}), 400, "missing_required_parameter", Some("name")),
        (json!({"name": null}), 400, "missing_required_parameter", Some("name")),
        (json!({"name": 7}), 400, "invalid_type", Some("name")),
        (json!({"name": ""}), 400, "invalid_value", Some("name")),
        (json!({"name": "a b"}), 400, "invalid_value", Some("name")),
        (json!({"name": "a".repeat(65)}), 400, "invalid_value", Some("name")),
        (json!({"name": "."}), 400, "invalid_value", Some("name")),
        (json!({"name": ".."}), 400, "invalid_value", Some("name")),
        (json!({"name": "new"}), 400, "invalid_value", Some("name")),
        (json!({"name": "taken"}), 409, "key_exists", Some("name")),
        (json!({"name": "a", "project": "../x"}), 400, "invalid_value", Some("project")),
        (json!({"name": "a", "models": "gpt-*"}), 400, "invalid_type", Some("models")),
        (json!({"name": "a", "models": ["gpt-[45]"]}), 400, "invalid_value", Some("models")),
        (json!({"name": "a", "models": [""]}), 400, "invalid_value", Some("models")),
        (json!({"name": "a", "models": many}), 400, "invalid_value", Some("models")),
        (json!({"name": "a", "expires_at": "2030-01-31"}), 400, "invalid_value", Some("expires_at")),
        (json!({"name": "a", "expires_at": "2030-01-31T18:00:00"}), 400, "invalid_value", Some("expires_at")),
        (
            json!({"name": "a", "expires_at": "2020-01-31T18:00:00Z"}),
            400,
            "invalid_value",
            Some("expires_at"),
        ),
        (json!({"name": "a", "expires_at": 1}), 400, "invalid_type", Some("expires_at")),
        (json!({"name": "a", "limits": []}), 400, "invalid_type", Some("limits")),
        (json!({"name": "a", "limits": {"per_model": large}}), 400, "invalid_value", Some("limits")),
        (
            json!({"name": "a", "limits": {"budgets": [{"tokens": 1, "windwo": "day"}]}}),
            400,
            "unknown_parameter",
            Some("limits.budgets[0].windwo"),
        ),
        (
            json!({"name": "a", "limits": {"per_model": [{"models": ["m"]}, {"requests_per_minute": 1}]}}),
            400,
            "missing_required_parameter",
            Some("limits.per_model[1].models"),
        ),
        (json!({"name": "a", "nmae": "b"}), 400, "unknown_parameter", Some("nmae")),
        (json!({"name": "a", "limits": {"x": "y".repeat(70_000)}}), 413, "request_too_large", None),
        (json!([]), 400, "invalid_json", None),
    ];
    for (body, status, code, param) in cases {
        let reply = create(&operator, &body).await;
        assert_eq!(reply.refusal(), (status, Some(code.into()), param.map(Into::into)), "{body}");
    }
    assert_eq!(create(&operator, "{").await.refusal().1.as_deref(), Some("invalid_json"));
    assert_eq!(operator.get("/api/keys").await["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    for name in ["d", "a", "c", "b", "e"] {
        operator.key(json!({"name": name})).await;
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("/api/keys?limit=2{after}")).await;
        let keys = page["keys"].as_array().unwrap();
        names.extend(keys.iter().map(|key| key["name"].as_str().unwrap().to_owned()));
        after = format!("&after={}", names.last().unwrap());
        if page["has_more"] == false {
            break;
        }
        assert_eq!(keys.len(), 2);
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    for (query, param) in
        [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("page=2", "page")]
    {
        for list in ["keys", "audit", "accounts"] {
            let reply = operator.call(Method::GET, &format!("/api/{list}?{query}")).await;
            assert_eq!((reply.refusal().0, reply.refusal().2), (400, Some(param.into())), "{list}?{query}");
        }
    }
    for list in ["accounts", "audit"] {
        let reply = operator.call(Method::GET, &format!("/api/{list}?after=none")).await;
        assert_eq!(reply.refusal(), (400, Some("invalid_value".into()), Some("after".into())));
    }
}

#[tokio::test]
async fn unknown_and_revoked_keys_are_reported() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    for name in ["none", "a%20b", "%00", &"x".repeat(3000)] {
        let path = format!("/api/keys/{name}");
        for (method, path) in [
            (Method::GET, path.clone()),
            (Method::DELETE, path.clone()),
            (Method::POST, format!("{path}/rotate")),
            (Method::POST, format!("{path}/revoke")),
        ] {
            let reply = operator.call(method, &path).await;
            assert_eq!(reply.refusal(), (404, Some("key_not_found".into()), None), "{path}");
        }
    }
    assert_eq!(operator.call(Method::GET, "/api/keys/%ff").await.refusal().0, 404);
    operator.key(json!({"name": "one"})).await;
    let revoked = operator.post("/api/keys/one/revoke").await;
    assert_eq!(revoked["state"], "revoked");
    assert_eq!(operator.post("/api/keys/one/revoke").await, revoked, "it was so before");
    let reply = operator.call(Method::POST, "/api/keys/one/rotate").await;
    assert_eq!(reply.refusal(), (409, Some("key_not_active".into()), None));
    for body in
        [json!({"overlap_seconds": -1}), json!({"overlap_seconds": "1h"}), json!({"overlap_seconds": 1.5})]
    {
        let reply = operator.send(Method::POST, "/api/keys/one/rotate", &body).await;
        assert_eq!(
            reply.refusal(),
            (400, Some("invalid_type".into()), Some("overlap_seconds".into())),
            "{body}"
        );
    }
    let long =
        operator.send(Method::POST, "/api/keys/one/rotate", json!({"overlap_seconds": 2_592_001})).await;
    assert_eq!(long.refusal(), (400, Some("invalid_value".into()), Some("overlap_seconds".into())));
    let gone = operator.call(Method::DELETE, "/api/keys/one").await.ok();
    assert_eq!((&gone["name"], &gone["deleted"]), (&json!("one"), &json!(true)));
    operator.key(json!({"name": "one"})).await;
}

#[tokio::test]
async fn changing_a_key_requires_the_admin_token() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let secret = operator.key(json!({"name": "one"})).await;
    for (method, path) in [
        (Method::GET, "/api/keys"),
        (Method::POST, "/api/keys"),
        (Method::GET, "/api/keys/one"),
        (Method::DELETE, "/api/keys/one"),
        (Method::POST, "/api/keys/one/rotate"),
        (Method::POST, "/api/keys/one/revoke"),
        (Method::GET, "/api/audit"),
    ] {
        for client in [gateway.client.clone(), gateway.client.with_secret(&secret)] {
            let reply = client.request(method.clone(), path, &[], r#"{"name":"two"}"#).await;
            assert_eq!(reply.refusal(), (401, Some("invalid_admin_token".into()), None), "{method} {path}");
        }
    }
    assert_eq!(operator.get("/api/keys").await["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn clients_of_a_key_are_listed_by_what_they_call_themselves() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let client = gateway.client.with_secret(&operator.key(json!({"name": "laptop"})).await);
    assert_eq!(operator.get("/api/keys/laptop/clients").await, json!({"clients": []}));
    for user_agent in
        ["OpenAI/Python 2.8.1", "codex_cli_rs/0.169.0 (Debian 12)", "OpenAI/Python 2.8.1", "(x)"]
    {
        let headers = [header("user-agent", user_agent)];
        let reply = client.request(Method::GET, "/v1/models", &headers, "").await;
        assert_eq!(reply.status, 200);
    }
    let listed = operator.get("/api/keys/laptop/clients").await;
    let clients = listed["clients"].as_array().unwrap();
    let mut names: Vec<_> = clients.iter().map(|client| client["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["OpenAI/Python 2.8.1", "codex_cli_rs/0.169.0"]);
    assert!(clients.iter().all(|client| client["last_used_at"].is_string()));
    let reply = operator.call(Method::GET, "/api/keys/nobody/clients").await;
    assert_eq!(reply.refusal(), (404, Some("key_not_found".into()), None));
}
