//! Turns that the demo's clients send: chains with branches, tool calls, a conversation, background turns, and failures.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_access::audit::Actor;
use antiphon_access::keys::{KeyWithSecret, NewKey};
use antiphon_operations::{OperationError, Operations};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

/// The time between two turns of the stream that never ends.
const INTERVAL: Duration = Duration::from_secs(3);

/// What the clients of each key say that they are.
const USER_AGENTS: [&[&str]; 3] = [
    &["codex_cli_rs/0.169.0", "OpenAI/Python 2.8.1"],
    &["OpenAI/Python 2.8.1"],
    &["ai-sdk/openai/2.0.1", "curl/8.5.0"],
];

/// The demo's clients.
pub struct Traffic<'a> {
    http: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    keys: &'a [KeyWithSecret],
}

/// Keys with limits and without.
pub async fn create_keys(operations: &Operations) -> Result<Vec<KeyWithSecret>, OperationError> {
    let keys = [
        json!({"name": "laptop", "project": "research", "limits": {"requests_per_minute": 60, "budgets": [{"cost": 5, "window": "day"}]}}),
        json!({"name": "ci", "project": "research", "models": ["gpt-*"], "limits": {"budgets": [{"tokens": 700, "window": "day"}]}}),
        json!({"name": "shop", "project": "shop", "models": ["gpt-5.4", "sim"], "limits": {"concurrent_turns": 8}}),
    ];
    let mut created = Vec::new();
    for key in keys {
        let new: NewKey = serde_json::from_value(key).map_err(|error| {
            OperationError::Invalid(antiphon_operations::InvalidRequest::value("key", error))
        })?;
        created.push(operations.create_key(new, Actor::Gateway).await?);
    }
    Ok(created)
}

// === impl Traffic ===

impl<'a> Traffic<'a> {
    pub fn new(address: SocketAddr, keys: &'a [KeyWithSecret]) -> Self {
        Self { http: Client::builder(TokioExecutor::new()).build_http(), address, keys }
    }

    /// Never returns.
    pub async fn run(&self) {
        self.research().await;
        self.converse().await;
        self.fail().await;
        for n in 0_usize.. {
            let model = ["gpt-5.4", "gpt-4.1-mini", "sim"][n % 3];
            let turn = json!({"model": model, "input": format!("REASON SAY{{Order {n} has shipped.}} DELAY{{120}}")});
            self.create(if n.is_multiple_of(2) { 2 } else { 0 }, turn).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// A chain of several turns with two branches and a tool call.
    async fn research(&self) {
        let say = |question: &str, answer: &str| format!("{question} SAY{{{answer}}}");
        let mut parent = None;
        for (question, answer) in [
            ("Which birds sing antiphonally?", "Many do: plain wrens, boubous and barbets, for instance."),
            (
                "REASON How do the pairs keep time?",
                "Each bird answers the phrase of its partner within milliseconds.",
            ),
            ("Summarise this in a sentence.", "Pairs sing in turns, and each answers the other at once."),
        ] {
            parent = self.continued(0, "gpt-5.4", &say(question, answer), parent.as_ref()).await;
        }
        let trunk = parent.clone();
        for language in ["German", "French", "Latin"] {
            let question =
                say(&format!("Translate it into {language}."), &format!("(the sentence in {language})"));
            let branch = self.continued(0, "gpt-5.4", &question, trunk.as_ref()).await;
            if language == "German" {
                self.continued(0, "gpt-4.1-mini", &say("Shorter, please.", "Im Wechsel."), branch.as_ref())
                    .await;
            }
        }
        let tools = json!([{"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}]);
        let call = json!({"model": "gpt-5.4", "input": "TOOLCALL look up the plain wren", "tools": tools});
        self.create(1, call).await;
    }

    async fn continued(&self, key: usize, model: &str, input: &str, parent: Option<&Value>) -> Option<Value> {
        let metadata = json!({"source": "demo"});
        let turn =
            json!({"model": model, "input": input, "previous_response_id": parent, "metadata": metadata});
        Some(self.create(key, turn).await?["id"].clone())
    }

    /// A conversation, and turns in the background.
    async fn converse(&self) {
        let conversation =
            self.post(2, "/v1/conversations", &json!({"metadata": {"customer": "4711"}})).await;
        let Some(id) = conversation.map(|conversation| conversation["id"].clone()) else { return };
        for input in
            ["Where is my order? SAY{It left our warehouse this morning.}", "Thanks! SAY{You are welcome.}"]
        {
            self.create(2, json!({"model": "gpt-5.4", "input": input, "conversation": id})).await;
        }
        for _ in 0..2 {
            self.create(
                2,
                json!({"model": "gpt-5.4", "input": "LONG{2000} DELAY{2000}", "background": true}),
            )
            .await;
        }
    }

    /// Turns that do not go well.
    async fn fail(&self) {
        self.create(2, json!({"model": "gpt-5.4", "input": "FAIL"})).await;
        self.create(2, json!({"model": "gpt-5.4", "input": "INCOMPLETE SAY{This ends in the middle of a}"}))
            .await;
        self.create(2, json!({"model": "gpt-4.1-mini", "input": "not a model of this key"})).await;
        for _ in 0..8 {
            self.create(1, json!({"model": "gpt-4.1-mini", "input": "LONG{160}", "max_output_tokens": 60}))
                .await;
        }
    }

    async fn create(&self, key: usize, turn: Value) -> Option<Value> {
        self.post(key, "/v1/responses", &turn).await
    }

    /// The reply's JSON, if there is one.
    async fn post(&self, key: usize, path: &str, body: &Value) -> Option<Value> {
        let user_agent = USER_AGENTS.get(key)?.choose(&mut rand::rng())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.address))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, *user_agent)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.keys.get(key)?.secret))
            .body(Full::new(Bytes::from(body.to_string())));
        let reply = self.http.request(request.ok()?).await.ok()?;
        let body = reply.into_body().collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    }
}
