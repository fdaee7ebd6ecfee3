//! The options of a simulator.

use super::chat_server::ChatServer;
use std::time::Duration;

/// How a simulator behaves unless a script overrides it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The only accepted bearer token; `None` accepts every client.
    pub api_key: Option<String>,
    /// Stores responses and continues them by `previous_response_id`.
    pub stateful: bool,
    /// Runs responses in the background; else `background: true` is refused.
    pub background: bool,
    /// Refuse what the real API refuses.
    pub strict: bool,
    /// The boundary of encrypted content: simulators with the same boundary can read each other's.
    pub boundary: String,
    /// What `GET …/models` lists.
    pub models: Vec<String>,
    /// What it says of models to Codex: the JSON objects in `models` beside the list. Empty: there is no `models`.
    pub codex_models: Vec<String>,
    /// Replies 404 `model_not_found` for models that are not listed.
    pub listed_models_only: bool,
    /// Whether it has `GET …/models`.
    pub lists_models: bool,
    /// Refuses every credential for `GET …/models`, as upstreams do whose keys are for turns only.
    pub refuses_list: bool,
    /// Lists its models whatever the credential is, as OpenRouter does.
    pub public_list: bool,
    /// Who owns the models that it lists.
    pub owned_by: String,
    /// What `/api/version` beside its `/v1` says, as Ollama's does.
    pub ollama_version: Option<String>,
    /// Whether it has `…/responses`.
    pub responses: bool,
    /// Whether it has `…/chat/completions` and `…/embeddings`.
    pub other_endpoints: bool,
    /// Whose chat completions it imitates.
    pub chat_server: ChatServer,
    /// Models that refuse `include: ["reasoning.encrypted_content"]`.
    pub no_encrypted_models: Vec<String>,
    /// When the limits of its headers reset, after each reply: of requests, and of tokens.
    pub limits_reset: [&'static str; 2],
    /// The text of a reply without a script.
    pub answer: String,
    /// The number of deltas per text.
    pub text_deltas: usize,
    /// Time between two events of a stream.
    pub between_events: Duration,
    /// Sends each event of a prepared stream as a chunk and a write of its own, and stamps each delta with the time.
    pub event_by_event: bool,
    /// Keeps the requests for [`Simulator::requests`](super::Simulator::requests).
    pub record: bool,
    /// Sends prepared bytes without parsing requests: no scripts, no directives, no checks.
    pub prepared: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_key: None,
            stateful: false,
            background: false,
            strict: true,
            boundary: String::from("simulator"),
            models: ["gpt-5.4", "gpt-4.1-mini", "sim"].map(String::from).to_vec(),
            codex_models: Vec::new(),
            listed_models_only: false,
            lists_models: true,
            refuses_list: false,
            public_list: false,
            owned_by: String::from("system"),
            ollama_version: None,
            responses: true,
            other_endpoints: true,
            chat_server: ChatServer::default(),
            no_encrypted_models: Vec::new(),
            limits_reset: ["6ms", "300ms"],
            answer: String::from("Hello from the simulator."),
            text_deltas: 4,
            between_events: Duration::ZERO,
            event_by_event: false,
            record: true,
            prepared: false,
        }
    }
}

impl Options {
    /// For benchmarks: replies of 200 characters, 50 deltas per stream, as little CPU as possible.
    pub fn bench() -> Self {
        Self {
            answer: "All work and no play makes a dull benchmark. ".chars().cycle().take(200).collect(),
            text_deltas: 50,
            strict: false,
            record: false,
            prepared: true,
            ..Self::default()
        }
    }
}
