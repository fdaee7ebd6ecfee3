//! What kind of upstream a simulator plays.

use std::time::Duration;

/// How a simulator behaves when no script says otherwise.
#[derive(Clone, Debug)]
pub struct Options {
    /// The only bearer that is let in; `None` lets everybody in.
    pub api_key: Option<String>,
    /// Keep responses and continue them by `previous_response_id`. Otherwise nothing is remembered.
    pub stateful: bool,
    /// Refuse what the real API refuses.
    pub strict: bool,
    /// Who can read the encrypted content made here: simulators of the same boundary.
    pub boundary: String,
    /// What `GET …/models` lists.
    pub models: Vec<String>,
    /// Answer 404 `model_not_found` to models that are not listed.
    pub listed_models_only: bool,
    /// Models that refuse `include: ["reasoning.encrypted_content"]`.
    pub no_encrypted_models: Vec<String>,
    /// The text of an answer that nobody scripted.
    pub answer: String,
    /// Into how many deltas a text is split.
    pub text_deltas: usize,
    /// Time between two events of a stream.
    pub between_events: Duration,
    /// Send each event of a prepared stream as an HTTP chunk of its own.
    pub chunked_events: bool,
    /// Keep the requests for [`Simulator::requests`](super::Simulator::requests).
    pub record: bool,
    /// Send prepared bytes without reading requests: no scripts, no directives, no checks.
    pub prepared: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_key: None,
            stateful: false,
            strict: true,
            boundary: String::from("simulator"),
            models: ["gpt-5.4", "gpt-4.1-mini", "sim"].map(String::from).to_vec(),
            listed_models_only: false,
            no_encrypted_models: Vec::new(),
            answer: String::from("Hello from the simulator."),
            text_deltas: 4,
            between_events: Duration::ZERO,
            chunked_events: false,
            record: true,
            prepared: false,
        }
    }
}

impl Options {
    /// The upstream of benchmarks: a 200-character answer, 50 deltas a stream, as little CPU as possible.
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
