//! One request and its reply.

use super::background::{Background, Outcome};
use super::body::{Cut, ReplyBody};
use super::chat;
use super::clock::unix_seconds;
use super::compaction;
use super::delivery;
use super::directive;
use super::event::{self, Framing};
use super::glance::Glance;
use super::headers::Headers;
use super::item::Item;
use super::json::{Object, array};
use super::memory::Memory;
use super::mint::Mint;
use super::options::Options;
use super::prepared::Prepared;
use super::received::{InFlight, Ledger, Received, lock};
use super::refusal::Refusal;
use super::reply::Reply;
use super::request::{Endpoint, Items, TurnRequest};
use super::script::{Close, Ending, Instead, Script, Stop};
use super::seal::seal;
use super::strict;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::value::RawValue;
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// The state that all connections of a simulator share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) ledger: Arc<Ledger>,
    pub(super) scripts: Mutex<Scripts>,
    /// Tells every socket to close now.
    pub(super) closing: watch::Sender<Option<Close>>,
    pub(super) memory: Memory,
    pub(super) background: Background,
    pub(super) mint: Mint,
    pub(super) headers: Headers,
    pub(super) prepared: Option<Prepared>,
    /// Whether there is `…/responses` now.
    pub(super) responses: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Scripts {
    pub(super) queue: VecDeque<Script>,
    pub(super) always: Option<Script>,
    /// The scripts of handshakes.
    pub(super) handshakes: VecDeque<Script>,
    pub(super) every_handshake: Option<Script>,
}

/// A valid request, with everything the model would see.
pub(super) struct Admitted {
    pub(super) request: TurnRequest,
    pub(super) input: Items,
    /// The history and the input.
    pub(super) items: Items,
    pub(super) script: Script,
}

impl Shared {
    pub(super) fn new(options: Options) -> Self {
        Self {
            ledger: Arc::new(Ledger::new()),
            scripts: Mutex::default(),
            closing: watch::Sender::new(None),
            memory: Memory::default(),
            background: Background::default(),
            mint: Mint::new(),
            headers: Headers::new(&options),
            responses: options.responses.into(),
            prepared: options.prepared.then(|| Prepared::new(&options, unix_seconds())),
            options,
        }
    }

    /// Encrypted content that this simulator can read.
    pub(super) fn encrypted_content(&self) -> String {
        seal(&self.options.boundary, self.mint.draw())
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Response<ReplyBody>, Cut> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let path = parts.uri.path().trim_end_matches('/');
        let endpoint = Endpoint::of(path).filter(|_| parts.method == Method::POST);
        if let Some(endpoint) = endpoint.filter(|of| self.has(*of)) {
            return self.answer_turn(endpoint, parts, body).await;
        }
        let is_get = parts.method == Method::GET;
        let is_models = is_get && path.ends_with("/models") && self.options.lists_models;
        let version = self.options.ollama_version.as_ref().filter(|_| is_get && path == "/api/version");
        let is_public = is_models && self.options.public_list;
        let refused = self.headers.check_bearer(&parts.headers).err().filter(|_| !is_public);
        let about = self.answer_about_response(&parts.method, path, parts.uri.query());
        let reply = match (refused, about) {
            (Some(refusal), _) => self.refuse(&refusal, None),
            (None, Some(about)) => about,
            (None, None) if is_models && self.options.refuses_list => {
                let refusal = Refusal::new(401, "invalid_api_key", "This key may not list models.");
                self.refuse(&refusal, None)
            }
            (None, None) if is_models => self.json(StatusCode::OK, self.models().into(), None),
            (None, None) if version.is_some() => {
                let version = Object::new().value("version", &version).finish();
                self.json(StatusCode::OK, version.into(), None)
            }
            (None, None) => {
                let message = format!("Invalid URL ({} {})", parts.method, parts.uri.path());
                self.refuse(&Refusal::invalid(message).status(404), None)
            }
        };
        if self.options.record {
            self.ledger.record_other(received(parts, body));
        }
        Ok(reply)
    }

    fn has(&self, endpoint: Endpoint) -> bool {
        if endpoint.has_items() {
            self.responses.load(Ordering::Relaxed)
        } else {
            self.options.other_endpoints
        }
    }

    async fn answer_turn(
        &self,
        endpoint: Endpoint,
        parts: Parts,
        body: Bytes,
    ) -> Result<Response<ReplyBody>, Cut> {
        let refused = self.headers.check_bearer(&parts.headers).err();
        // Whoever asks for nothing wants to know whether there is this endpoint: that is no turn.
        if &body[..] == b"{}" {
            if self.options.record {
                self.ledger.record_other(received(parts, body));
            }
            let refusal = refused
                .unwrap_or_else(|| Refusal::invalid("Missing required parameter: 'model'.".to_owned()));
            return Ok(self.refuse(&refusal, None));
        }
        let turn = self.ledger.enter(self.options.record.then(|| received(parts, body.clone())));
        if let Some(refusal) = refused {
            return Ok(self.refuse(&refusal, Some(turn)));
        }
        if let Some(prepared) = &self.prepared {
            return Ok(self.send_prepared(prepared, &body, turn));
        }
        match TurnRequest::parse(endpoint, &body).and_then(|request| self.admit(request, None)) {
            Ok(admitted) => self.play(admitted, turn).await,
            Err(refusal) => Ok(self.refuse(&refusal, Some(turn))),
        }
    }

    fn send_prepared(&self, prepared: &Prepared, body: &[u8], turn: InFlight) -> Response<ReplyBody> {
        let drawn = self.mint.draw();
        if prepared.wants_stream(body) {
            let mut response = Response::new(ReplyBody::new(prepared.stream(drawn), None, Some(turn)));
            self.headers.few(&mut response, Headers::EVENT_STREAM, drawn);
            return response;
        }
        let mut response = Response::new(ReplyBody::whole(prepared.collected(drawn), Some(turn)));
        self.headers.few(&mut response, Headers::JSON, drawn);
        response
    }

    /// Checks a request and finds its script. A rejected request uses up no script. `recent` is what a socket remembers of
    /// the response that is continued.
    pub(super) fn admit(&self, request: TurnRequest, recent: Option<&Items>) -> Result<Admitted, Refusal> {
        if self.options.strict {
            strict::check_request(&request, &self.options)?;
        }
        let mut input = request.input_items();
        self.memory.resolve(&mut input);
        let mut items = recent.map_or_else(|| self.history(&request), |items| Ok(items.clone()))?;
        let kept = items.len();
        items.extend(input.iter().cloned());
        if self.options.strict && request.endpoint.has_items() {
            let recent = ids(recent);
            let knows = |id: &str| recent.contains(id) || self.memory.knows_item(id);
            strict::check_items(&items, kept, &self.options.boundary, knows)?;
            strict::check_reasoning(&items, |id| self.memory.reasoning_of(id))?;
        }
        let script = if request.is_warm_up() { Script::new() } else { self.script_for(&request, &items) };
        Ok(Admitted { request, input, items, script })
    }

    fn history(&self, request: &TurnRequest) -> Result<Items, Refusal> {
        let Some(id) = request.get::<String>("previous_response_id") else { return Ok(Items::new()) };
        match self.memory.load_chain(&id) {
            Some(items) => Ok(items),
            None if self.options.strict || self.options.stateful => {
                Err(strict::previous_response_not_found(&id))
            }
            None => Ok(Items::new()),
        }
    }

    fn script_for(&self, request: &TurnRequest, items: &[Box<RawValue>]) -> Script {
        let queued = lock(&self.scripts).queue.pop_front();
        queued
            .or_else(|| directive::script_for(request, items, &self.options.answer))
            .or_else(|| lock(&self.scripts).always.clone())
            .unwrap_or_else(|| Script::answer(&self.options.answer))
    }

    async fn play(&self, admitted: Admitted, mut turn: InFlight) -> Result<Response<ReplyBody>, Cut> {
        let Admitted { request, input, items, script } = admitted;
        if let Err(cut) = delivery::before_headers(&script.delivery).await {
            turn.finish();
            return Err(cut);
        }
        let mut response = match &script.instead {
            Some(Instead::Body { status, content_type, bytes }) => {
                let steps = delivery::collected(bytes, &script.delivery);
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                self.respond(
                    status,
                    content_type,
                    ReplyBody::new(steps, Some(bytes.len() as u64), Some(turn)),
                )
            }
            Some(Instead::Stream { bytes }) => self.stream(vec![bytes.clone()], &script, turn),
            None => match request.endpoint {
                Endpoint::Create | Endpoint::Socket => self.render(&request, input, &script, turn),
                Endpoint::Compact => self.compact(&request, &items, &script, turn),
                Endpoint::InputTokens => {
                    let body = compaction::count(&items, &script);
                    self.json(StatusCode::OK, body.into(), Some(turn))
                }
                Endpoint::Chat => self.complete_chat(&request, &script, turn),
                Endpoint::Embeddings => {
                    self.deliver(&chat::embeddings(&request, &script).into(), &script, turn)
                }
            },
        };
        Headers::overwrite(&mut response, &script.headers);
        Ok(response)
    }

    fn render(
        &self,
        request: &TurnRequest,
        input: Items,
        script: &Script,
        turn: InFlight,
    ) -> Response<ReplyBody> {
        let reply = self.reply(request, script);
        if self.options.stateful && request.wants_storing() && reply.can_be_continued() {
            let parent = request.get("previous_response_id");
            self.memory.keep(reply.id.clone(), parent, input, reply.output_items().collect());
        }
        if request.wants_background() {
            return self.run_in_background(&reply, script, turn);
        }
        if request.wants_stream() {
            return self.stream(self.events(&reply, script, Framing::Sse), script, turn);
        }
        self.deliver(&reply.collected().into(), script, turn)
    }

    fn complete_chat(&self, request: &TurnRequest, script: &Script, turn: InFlight) -> Response<ReplyBody> {
        let created_at = unix_seconds();
        let family = self.mint.family(created_at);
        let (id, call_id) = (family.id("chatcmpl"), family.call_id());
        let completion =
            chat::Completion { request, script, server: self.options.chat_server, id, created_at, call_id };
        if request.wants_stream() {
            let deltas = script.deltas.unwrap_or(self.options.text_deltas);
            return self.stream(completion.events(deltas), script, turn);
        }
        self.deliver(&completion.collected().into(), script, turn)
    }

    /// A collected reply, as scripted.
    fn deliver(&self, body: &Bytes, script: &Script, turn: InFlight) -> Response<ReplyBody> {
        let steps = delivery::collected(body, &script.delivery);
        let body = ReplyBody::new(steps, Some(body.len() as u64), Some(turn));
        self.respond(StatusCode::OK, "application/json", body)
    }

    fn run_in_background(&self, reply: &Reply<'_>, script: &Script, turn: InFlight) -> Response<ReplyBody> {
        let events = self.events(reply, script, Framing::Sse);
        let is_streamed = reply.request.wants_stream();
        let outcome = Outcome {
            is_streamed,
            delivery: script.delivery.clone(),
            pause: self.options.between_events,
            events,
            running: reply.running(),
            over: reply.over(),
            status: reply.status(),
        };
        let run = self.background.start(&reply.id, outcome, turn);
        if !is_streamed {
            return self.json(StatusCode::OK, run.response().into(), None);
        }
        let cut_after = match script.delivery.stop {
            Some(Stop::Cut { events, .. }) => Some(events),
            _ => None,
        };
        let body = ReplyBody::following(run.follow(0, cut_after));
        self.respond(StatusCode::OK, "text/event-stream; charset=utf-8", body)
    }

    pub(super) fn reply<'r>(&self, request: &'r TurnRequest, script: &Script) -> Reply<'r> {
        let created_at = unix_seconds();
        let family = self.mint.family(created_at);
        let boundary = request.wants_encrypted_content().then_some(self.options.boundary.as_str());
        Reply {
            request,
            id: family.id("resp"),
            created_at,
            items: script.output.iter().map(|output| Item::new(output, &family, boundary)).collect(),
            ending: script.ending.clone(),
            usage: script.usage,
        }
    }

    pub(super) fn events(&self, reply: &Reply<'_>, script: &Script, framing: Framing<'_>) -> Vec<Bytes> {
        let deltas = script.deltas.unwrap_or(self.options.text_deltas);
        event::render(reply, script.error_event.as_ref(), deltas, framing)
    }

    fn compact(
        &self,
        request: &TurnRequest,
        items: &Items,
        script: &Script,
        turn: InFlight,
    ) -> Response<ReplyBody> {
        let created_at = unix_seconds();
        let family = self.mint.family(created_at);
        let reply = Reply {
            request,
            id: family.id("resp"),
            created_at,
            items: Vec::new(),
            ending: Ending::Completed,
            usage: script.usage,
        };
        let body = compaction::render(&reply, items, &family, &self.encrypted_content());
        self.json(StatusCode::OK, body.into(), Some(turn))
    }

    fn stream(&self, mut events: Vec<Bytes>, script: &Script, turn: InFlight) -> Response<ReplyBody> {
        if script.delivery.crlf {
            for event in &mut events {
                *event = String::from_utf8_lossy(event).replace('\n', "\r\n").into();
            }
        }
        let steps = delivery::stream(events, &script.injected, &script.delivery, self.options.between_events);
        let body = ReplyBody::new(steps, None, Some(turn));
        self.respond(StatusCode::OK, "text/event-stream; charset=utf-8", body)
    }

    fn models(&self) -> String {
        let models = self.options.models.iter().map(|id| {
            let model = Object::new().value("id", id).value("object", "model");
            model.value("created", &1_741_391_161_u64).value("owned_by", &self.options.owned_by).finish()
        });
        let list = Object::new().value("object", "list").raw("data", &array(models));
        match &self.options.codex_models {
            entries if entries.is_empty() => list,
            entries => list.raw("models", &array(entries.iter().cloned())),
        }
        .finish()
    }

    pub(super) fn refuse(&self, refusal: &Refusal, turn: Option<InFlight>) -> Response<ReplyBody> {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.json(status, refusal.envelope().into(), turn)
    }

    fn json(&self, status: StatusCode, body: Bytes, turn: Option<InFlight>) -> Response<ReplyBody> {
        self.respond(status, "application/json", ReplyBody::whole(body, turn))
    }

    pub(super) fn respond(
        &self,
        status: StatusCode,
        content_type: &str,
        body: ReplyBody,
    ) -> Response<ReplyBody> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        self.headers.all(&mut response, content_type, &self.mint.request_id());
        response
    }
}

pub(super) fn received(parts: Parts, body: Bytes) -> Received {
    Received {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
        headers: parts.headers,
        body,
        socket: None,
    }
}

/// The ids of the items that have one.
fn ids(items: Option<&Items>) -> HashSet<String> {
    let glances = items.into_iter().flatten().filter_map(|item| Glance::at(item));
    glances.filter_map(|glance| glance.id).collect()
}
