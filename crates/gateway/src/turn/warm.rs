//! A warm-up (`generate: false`): a turn that only sets up its context. It needs no upstream.

use std::sync::Arc;

use antiphon_protocol::json::{Malformed, Set, set_members};
use antiphon_protocol::response::{Ending, end};
use antiphon_protocol::tool::shown_tools;
use antiphon_protocol::usage::Usage;
use antiphon_store::Status;
use bytes::Bytes;

use super::record::Finished;
use super::resolve::Resolved;
use super::stream::EventStream;
use super::{Cancellation, Failure, Incoming, Turn, TurnError, Turns};

const NO_USAGE: &[u8] = br#"{"input_tokens":0,"input_tokens_details":{"cache_write_tokens":0,"cached_tokens":0},"output_tokens":0,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":0}"#;

/// Members of the request that the response repeats.
const ECHOED_MEMBERS: [&str; 14] = [
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
];

impl Turns {
    /// Yields a response without output, which can be continued.
    pub(super) async fn warm_up(
        self: Arc<Self>,
        incoming: Incoming,
        cancellation: Cancellation,
    ) -> Result<EventStream, TurnError> {
        let mut turn = self.admit(incoming, cancellation);
        let result = turn.warm_up().await;
        if let Err(failure) = &result {
            turn.progress.fail(failure);
        }
        turn.settle();
        result.map_err(|failure| turn.turn_error(failure))
    }
}

impl Turn {
    async fn warm_up(&mut self) -> Result<EventStream, Failure> {
        let resolved = self.resolve().await?;
        // The memory of its connection bounds a turn that is not stored.
        if self.facts.create.store {
            self.reserve(&resolved).await?;
        }
        let started = self.started_response(&resolved).map_err(|_| Failure::Internal)?;
        let response = self.completed_response(&started).map_err(|_| Failure::Internal)?;
        let frames =
            [self.event("response.created", 0, &started), self.event("response.completed", 1, &response)];
        let finished = Finished {
            status: Status::Completed,
            response: response.into(),
            body: None,
            output: Bytes::from_static(b"[]"),
            upstream_id: None,
            usage: Usage::default(),
        };
        self.end(&finished, frames.iter().map(Bytes::len).sum());
        self.record(finished, &resolved, None).await?;
        Ok(EventStream::from_frames(frames))
    }

    pub(super) fn started_response(&self, resolved: &Resolved) -> Result<Vec<u8>, Malformed> {
        let skeleton =
            self.owned(resolved).skeleton(&self.facts.create.model, self.facts.started_at.unix_seconds());
        let shown = |name: &'static str| {
            let value = self.facts.create.shown(name)?;
            Some((name, if name == "tools" { shown_tools(value) } else { value.into() }))
        };
        let echoed: Vec<_> = ECHOED_MEMBERS.into_iter().filter_map(shown).collect();
        let set: Vec<_> = echoed.iter().map(|(name, value)| Set { name, value, add: true }).collect();
        let mut out = Vec::with_capacity(skeleton.len());
        set_members(&skeleton, &set, &mut out)?;
        Ok(out)
    }

    fn completed_response(&self, started: &[u8]) -> Result<Vec<u8>, Malformed> {
        let completed = end(started, Ending { status: "completed", error: None }, b"[]")?;
        let at = self.turns.env.clock.now().unix_seconds().to_string();
        let set = [
            Set { name: "completed_at", value: at.as_bytes(), add: true },
            Set { name: "usage", value: NO_USAGE, add: true },
        ];
        let mut out = Vec::with_capacity(completed.len() + NO_USAGE.len());
        set_members(&completed, &set, &mut out)?;
        Ok(out)
    }

    fn event(&self, name: &str, sequence: u64, response: &[u8]) -> Bytes {
        let mut data = format!(r#"{{"type":"{name}","sequence_number":{sequence},"response":"#).into_bytes();
        data.extend_from_slice(response);
        data.push(b'}');
        self.facts.door.framing().render(name.as_bytes(), data.into())
    }
}
