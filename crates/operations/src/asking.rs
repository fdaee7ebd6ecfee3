//! One short question to an account's upstream, so that an operator sees whether it serves turns.

use std::time::{Duration, Instant};

use antiphon_protocol::event::EventKind;
use antiphon_protocol::id::ResponseId;
use antiphon_protocol::request::{Changes, CreateRequest, Operation, UpstreamInput};
use antiphon_upstream::account::Account;
use antiphon_upstream::dialect::TurnFacts;
use antiphon_upstream::transport::{Accept, EventReader, Post, Secrets, words_of};
use http::HeaderMap;
use rand::RngExt;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Operations;

const QUESTION: &str = "Reply with one short sentence: are you there?";
/// A server that loads its model first takes its time.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);
const MAX_REPLY_BYTES: usize = 4 * 1024 * 1024;

/// What an upstream answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answer {
    /// The model, as the upstream calls it.
    pub model: String,
    pub text: String,
    pub milliseconds: u64,
    #[schema(value_type = Object)]
    pub usage: Value,
}

impl Operations {
    /// Asks a question in a turn of its own: nothing is stored, and no limit applies. Without a model, the first one that the
    /// account has is asked. The error is a text.
    pub(super) async fn ask(&self, account: &Account, model: Option<&str>) -> Result<Answer, String> {
        let first = || account.models().into_iter().next().map(|model| model.id);
        let model = model.map(str::to_owned).or_else(first);
        let model = model.ok_or("its upstream lists no models: name one with --model")?;
        let asking = tokio::time::timeout(ANSWER_TIMEOUT, self.ask_model(account, &model));
        asking.await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    async fn ask_model(&self, account: &Account, model: &str) -> Result<Answer, String> {
        let begun = Instant::now();
        let text = |error: &dyn std::error::Error| error.to_string();
        let body = json!({"model": model, "input": QUESTION, "stream": true, "store": false});
        let create = CreateRequest::parse(Operation::Create, body.to_string().into());
        let create = create.map_err(|error| error.message)?;
        let started_at = self.clock.now();
        let id = ResponseId::mint(started_at.unix_ms().unsigned_abs(), &rand::rng().random());
        let facts = TurnFacts { id, started_at, clock: &self.clock };
        let dialect = account.api.dialect();
        let upstream_name = account.upstream_name(model);
        let changes = Changes { model: upstream_name.as_deref(), streams: true, ..Changes::default() };
        let encoded = dialect.encode(&create, &UpstreamInput::default(), changes, &facts);
        let encoded = encoded.map_err(|error| error.message)?;
        let authorization = self.upstream.authorization(account).await.map_err(|error| text(&error))?;
        let post = Post {
            operation: Operation::Create,
            dialect,
            authorization: authorization.as_ref(),
            client_headers: &HeaderMap::new(),
            accept: Accept::Events,
            body: encoded.parts,
            connect_time: None,
        };
        let reply = self.upstream.post(account, post).await.map_err(|error| text(&error))?;
        let (head, body) = reply.into_parts();
        let secrets = Secrets::new(account, authorization.as_ref());
        if !head.status.is_success() {
            let body = body.collect(MAX_REPLY_BYTES).await.unwrap_or_default();
            let words = words_of(&body, secrets);
            return Err(format!("status {}: {words}", head.status.as_u16()));
        }
        let response = read_response(EventReader::new(body, &encoded.format, MAX_REPLY_BYTES)).await?;
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Answer::of(&response, milliseconds).map_err(|message| secrets.redact_text(message))
    }
}

/// Reads a stream to its last event, and returns the response in it.
async fn read_response(mut events: EventReader) -> Result<Value, String> {
    let is_last = |kind| matches!(kind, EventKind::Terminal | EventKind::Error);
    loop {
        let goes_on = events.read().await?;
        let decoder = events.decoder();
        loop {
            let next = decoder.next_event().map_err(|error| error.to_string())?;
            let Some(event) = next.or_else(|| (!goes_on).then(|| decoder.finish()).flatten()) else { break };
            if is_last(event.kind()) {
                let data: Value = serde_json::from_slice(&event.data().unwrap_or_default())
                    .map_err(|_| "the reply is not an event stream".to_owned())?;
                return Ok(data.get("response").unwrap_or(&data).clone());
            }
        }
        if !goes_on {
            return Err("the reply is not an event stream, or it was cut off".to_owned());
        }
    }
}

// === impl Answer ===

impl Answer {
    fn of(response: &Value, milliseconds: u64) -> Result<Self, String> {
        let error = response.get("error").filter(|error| !error.is_null()).unwrap_or(&Value::Null);
        let message = error.get("message").or_else(|| response.get("message")).and_then(Value::as_str);
        if let Some(message) = message {
            return Err(message.to_owned());
        }
        let parts = response["output"].as_array().into_iter().flatten();
        let parts = parts.filter_map(|item| item["content"].as_array()).flatten();
        let texts =
            parts.filter(|part| part["type"] == "output_text").filter_map(|part| part["text"].as_str());
        Ok(Self {
            model: response["model"].as_str().unwrap_or_default().to_owned(),
            text: texts.collect(),
            milliseconds,
            usage: response["usage"].clone(),
        })
    }
}
