//! The continuity session: 40 turns like Codex's, through all that can happen to a gateway, its clients and its upstreams.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Client, Postgres, Process, Setup, Signal, Socket, eventually, said};
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::binary;
use crate::command::antiphon;

const TURNS: usize = 40;
/// The names of the upstreams, which are those of their accounts.
const NAMES: [&str; 3] = ["first", "second", "chat"];
const CHAT: usize = 2;

/// What was said in the session.
enum Said {
    /// By the client, or a tool, or the model to the client.
    Line(String),
    /// Reasoning of one of the upstreams; some of it has no summary, so that nobody else can read any of it.
    Thought { of: usize, summary: Option<String> },
}

impl Said {
    /// What an upstream gets of it.
    fn for_upstream(&self, upstream: usize) -> Option<String> {
        match self {
            Self::Line(line) => Some(line.clone()),
            Self::Thought { of, summary } if *of == upstream || upstream == CHAT => match summary {
                Some(summary) => Some(format!("thought: {summary}")),
                None => (*of == upstream).then(|| "thought".to_owned()),
            },
            // The API takes no reasoning that it can't read, so what can be read comes as a message.
            Self::Thought { of, summary } => {
                summary.as_ref().filter(|_| *of != CHAT).map(|summary| format!("assistant: {summary}"))
            }
        }
    }
}

struct Session {
    upstreams: Vec<Simulator>,
    setup: Setup,
    gateway: Process,
    replica: usize,
    socket: Option<Socket>,
    history: Vec<Said>,
    parent: Value,
    recording: String,
}

impl Session {
    async fn start() -> Self {
        let mut upstreams = Vec::new();
        for boundary in NAMES {
            let options = Options { boundary: boundary.to_owned(), stateful: true, ..Options::default() };
            upstreams.push(Simulator::bind(options).await.unwrap());
        }
        let urls: Vec<String> = upstreams.iter().map(Simulator::url).collect();
        let native = "models = [\"gpt-*\"]\nstate = \"native\"\napi_key = { value = \"sk-upstream\" }";
        let setup = Setup::with_accounts(NAMES.into_iter().zip(urls.iter().map(String::as_str)))
            .account(0, native)
            .account(1, native)
            .account(CHAT, "models = [\"local\"]\napi = \"chat\"")
            .config("routing.strategy = \"fill_first\"")
            .database_url(&Postgres::shared_database().await);
        let gateway = Process::start(binary(), &setup).await;
        Self {
            upstreams,
            setup,
            gateway,
            replica: 1,
            socket: None,
            history: Vec::new(),
            parent: Value::Null,
            recording: String::new(),
        }
    }

    fn record(&mut self, line: &str) {
        self.recording.push_str(line);
        self.recording.push('\n');
    }

    async fn kill_gateway(&mut self) {
        self.record("          the gateway is killed and started again");
        self.socket = None;
        self.gateway.signal(Signal::KILL);
        self.gateway = Process::start(binary(), &self.setup).await;
    }

    async fn move_to_second_replica(&mut self) {
        self.record("          the gateway is killed, and a second replica takes over");
        self.replica = 2;
        let setup = self.setup.clone();
        let killed = std::mem::replace(&mut self.gateway, Process::start(binary(), &setup).await);
        killed.kill().await;
    }

    /// The admin API of the gateway that serves now.
    async fn operator(&self) -> Client {
        let dir = self.setup.database().parent().unwrap().to_owned();
        let (code, token, error) = antiphon(&dir, &["--config", "process.toml", "admin", "token"], &[]).await;
        assert_eq!(code, 0, "{error}");
        self.gateway.client.with_secret(token.trim())
    }

    async fn refuse_credentials_of_first(&mut self) {
        self.record("          the upstream that serves refuses its credential from now on");
        self.upstreams[0].revoke_credentials(true);
    }

    async fn return_to_first(&mut self) {
        self.record("          the first account returns, and the second one is paused");
        let operator = self.operator().await;
        self.upstreams[0].revoke_credentials(false);
        for (path, state) in [("first/resume", "ready"), ("second/pause", "paused")] {
            let reply = operator.request(Method::POST, &format!("/api/accounts/{path}"), &[], "").await.ok();
            assert_eq!(reply["state"], state);
        }
    }

    /// Runs one turn over its transport and returns its response.
    async fn serve(&mut self, turn: usize, mut request: Value) -> (&'static str, Value) {
        let client = &self.gateway.client;
        match turn {
            0..14 => {
                if self.socket.is_none() {
                    let address: SocketAddr =
                        self.gateway.url.strip_prefix("http://").unwrap().parse().unwrap();
                    let beta = HeaderValue::from_static("responses_websockets=2026-02-06");
                    let headers = [("openai-beta", beta)];
                    self.socket = Some(Socket::connect(address, "/v1/responses", &headers).await.unwrap());
                }
                ("socket", self.socket.as_mut().unwrap().created(request).await)
            }
            14..26 => {
                request["stream"] = true.into();
                let mut events = client.stream(request).await;
                ("stream", events.until("response.completed").await.json()["response"].clone())
            }
            _ => ("collected", client.created(request).await),
        }
    }

    async fn turn(&mut self, turn: usize, expected: usize) {
        let is_chat = expected == CHAT;
        let summary = (turn % 4 != 3).then(|| format!("thought {turn}"));
        let calls = turn.is_multiple_of(2);
        let mut script = Script::new().reasoning(summary.clone().unwrap_or_default());
        let (call, arguments) = (format!("call_{turn}"), format!("{{\"cmd\":\"step {turn}\"}}"));
        script = match calls {
            true => script.tool_call_as(&call, "exec_command", &arguments),
            false => script.text(format!("answer {turn}")),
        };
        self.upstreams[expected].script(script);
        let input = match turn {
            0 => {
                self.history.push(Said::Line("system: You are a coding agent.".to_owned()));
                self.history.push(Said::Line("user: begin".to_owned()));
                json!([{"role": "developer", "content": "You are a coding agent."}, {"role": "user", "content": "begin"}])
            }
            _ if turn % 2 == 1 => {
                let call = format!("call_{}", turn - 1);
                self.history.push(Said::Line(format!("output of {call}: done")));
                json!([{"type": "function_call_output", "call_id": call, "output": "done"}])
            }
            _ => {
                self.history.push(Said::Line(format!("user: question {turn}")));
                json!([{"role": "user", "content": format!("question {turn}")}])
            }
        };
        let tools = json!([{"type": "function", "name": "exec_command", "parameters": {"type": "object"}}]);
        let model = if is_chat { "local" } else { "gpt-5.4" };
        let request =
            json!({"model": model, "input": input, "tools": tools, "previous_response_id": self.parent});
        let (transport, response) = self.serve(turn, request).await;
        assert_eq!(response["status"], "completed", "turn {turn}");
        self.parent = response["id"].clone();
        self.check(turn, transport, expected);
        // A chat has no reasoning without its text.
        if summary.is_some() || !is_chat {
            self.history.push(Said::Thought { of: expected, summary });
        }
        self.history.push(Said::Line(match calls {
            true => format!("call {call}: exec_command({arguments})"),
            false => format!("assistant: answer {turn}"),
        }));
    }

    /// The upstream must have got what was said, all of it or, if it keeps the chain itself, the end of it.
    fn check(&mut self, turn: usize, transport: &str, expected: usize) {
        let request = self.upstreams[expected].last_request().unwrap();
        let got = said(&request);
        let all: Vec<String> = self.history.iter().filter_map(|said| said.for_upstream(expected)).collect();
        let is_continued = request.json()["previous_response_id"].is_string();
        let start = if is_continued { all.len() - got.len() } else { 0 };
        assert_eq!(got, all[start..], "turn {turn}");
        let what = match is_continued {
            true => format!("{} new", got.len()),
            false => format!("{} lines, the whole chain", got.len()),
        };
        let upstream = NAMES[expected];
        writeln!(
            self.recording,
            "turn {turn:2}   {transport:<9}  replica {}   {upstream:<6}   {what}",
            self.replica
        )
        .unwrap();
    }
}

/// Which upstream serves a turn, if everything goes as it must.
fn upstream_of(turn: usize) -> usize {
    match turn {
        20.. if turn % 2 == 1 => CHAT,
        10..20 => 1,
        _ => 0,
    }
}

#[tokio::test]
async fn a_session_of_forty_turns_goes_on_whatever_happens() {
    let mut session = Session::start().await;
    for turn in 0..TURNS {
        match turn {
            5 => session.kill_gateway().await,
            10 => session.refuse_credentials_of_first().await,
            15 => {
                session.record("          the upstream forgets everything");
                session.upstreams[1].forget();
            }
            18 => session.move_to_second_replica().await,
            20 => session.return_to_first().await,
            _ => {}
        }
        session.turn(turn, upstream_of(turn)).await;
        if turn == 10 {
            let operator = session.operator().await;
            let is_disabled = async || operator.get("/api/accounts/first").await.ok()["state"] == "disabled";
            eventually("the account is disabled", is_disabled).await;
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/continuity.md");
    let documented = std::fs::read_to_string(page).unwrap();
    let recording = session.recording;
    assert!(documented.contains(&recording), "docs/continuity.md should have this recording:\n{recording}");
}
