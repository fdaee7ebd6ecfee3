//! Clients that build chains and branches, and note what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::door::{Connection, Door, Outcome};
use crate::history::{History, user};
use crate::ledger::{Acknowledged, Ledger};
use crate::rig::{Rig, Targets};
use crate::violations::{Promise, Violation, Violations};

/// Before a turn is tried again.
const PAUSE: Duration = Duration::from_millis(30);
/// Turns of a hundred whose client leaves.
const USUAL_ABORTS: u32 = 2;
const MAX_ABORT_MS: u64 = 60;
/// Of a wrong output.
const MAX_SHOWN_CHARS: usize = 300;
/// The codes that a turn may be refused with while something is broken.
const EXPECTED: [&str; 9] = [
    "store_unavailable",
    "server_error",
    "upstream_unreachable",
    "upstream_failed",
    "upstream_timeout",
    "no_account_available",
    "rate_limit_exceeded",
    "server_is_overloaded",
    "hostile",
];

/// All clients. They share the ledger.
pub struct Load {
    shared: Arc<Shared>,
    running: Vec<JoinHandle<()>>,
}

/// How much load there is.
#[derive(Debug, Clone, Copy)]
pub struct Volume {
    pub clients: usize,
    /// Between two turns of a client.
    pub pause: Duration,
    /// Each is as likely as the others.
    pub doors: &'static [Door],
}

struct Shared {
    ledger: Arc<Ledger>,
    targets: Targets,
    secrets: Vec<String>,
    violations: Violations,
    stop: AtomicBool,
    abort_percent: AtomicU32,
}

/// A turn that is to be acknowledged, and its parent.
pub struct Turn {
    pub parent: Option<usize>,
    pub history: History,
    pub body: Value,
    pub depth: u32,
}

impl Load {
    pub fn start(rig: &Rig, ledger: &Arc<Ledger>, volume: Volume, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            ledger: Arc::clone(ledger),
            targets: rig.targets.clone(),
            secrets: rig.secrets.clone(),
            violations: rig.violations.clone(),
            stop: AtomicBool::new(false),
            abort_percent: AtomicU32::new(USUAL_ABORTS),
        });
        let client = |n: usize| {
            let rng = StdRng::seed_from_u64(seed ^ (n as u64) << 32);
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { shared.client(n, rng, volume).await })
        };
        let running = (0..volume.clients).map(client).collect();
        Self { shared, running }
    }

    /// How many turns of a hundred are left by their clients; `None` for the usual few.
    pub fn set_aborts(&self, percent: Option<u32>) {
        self.shared.abort_percent.store(percent.unwrap_or(USUAL_ABORTS), Ordering::Relaxed);
    }

    /// Waits until every client has ended its turn.
    pub async fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.running {
            if let Err(error) = client.await {
                self.shared.violations.add(Promise::Events, format!("a client panicked: {error}"));
            }
        }
    }
}

impl Shared {
    async fn client(&self, n: usize, mut rng: StdRng, Volume { pause, doors, .. }: Volume) {
        let project = n % self.secrets.len();
        let mut connection = self.connect(project, &mut rng);
        let mut tip = None;
        let mut tries = 0;
        let mut turn = next_turn(&self.ledger, project, tip, &mut rng);
        while !self.stop.load(Ordering::Relaxed) {
            if !self.targets.list().iter().any(|url| url == connection.url()) || rng.random_ratio(1, 50) {
                connection = self.connect(project, &mut rng);
            }
            let door = doors[rng.random_range(0..doors.len())];
            self.ledger.tally(door, |tally| tally.retried += u64::from(tries > 0));
            let Some(outcome) = self.turn(&mut connection, door, turn.body.clone(), &mut rng).await else {
                self.ledger.tally(door, |tally| tally.aborted += 1);
                continue;
            };
            match self.judge(door, project, &turn, outcome) {
                Some(acknowledged) => {
                    tip = Some(acknowledged);
                    tries = 0;
                    turn = next_turn(&self.ledger, project, tip, &mut rng);
                    tokio::time::sleep(pause).await;
                }
                None => {
                    tries += 1;
                    tokio::time::sleep(PAUSE.max(pause)).await;
                }
            }
        }
    }

    fn connect(&self, project: usize, rng: &mut StdRng) -> Connection {
        let targets = self.targets.list();
        let url = &targets[rng.random_range(0..targets.len())];
        Connection::new(url, &self.secrets[project], &self.targets)
    }

    /// How a turn ended; `None` if its client leaves half-way, which closes the connection.
    async fn turn(
        &self,
        connection: &mut Connection,
        door: Door,
        body: Value,
        rng: &mut StdRng,
    ) -> Option<Outcome> {
        let turn = connection.turn(door, body);
        if rng.random_range(0..100) >= self.abort_percent.load(Ordering::Relaxed) {
            return Some(turn.await);
        }
        let time = Duration::from_millis(rng.random_range(0..MAX_ABORT_MS));
        tokio::time::timeout(time, turn).await.ok()
    }

    /// Counts how a turn ended; returns its index if it was acknowledged.
    fn judge(&self, door: Door, project: usize, turn: &Turn, outcome: Outcome) -> Option<usize> {
        match judge(&self.ledger, door, project, turn, outcome) {
            Ok(acknowledged) => acknowledged,
            Err(violation) => {
                self.violations.push(violation);
                None
            }
        }
    }
}

/// Notes how a turn ended: its index if it was acknowledged, or what must not be.
pub fn judge(
    ledger: &Ledger,
    door: Door,
    project: usize,
    turn: &Turn,
    outcome: Outcome,
) -> Result<Option<usize>, Violation> {
    match outcome {
        Outcome::Acknowledged(response) => {
            ledger.tally(door, |tally| tally.acknowledged += 1);
            let id = response["id"].as_str().unwrap_or_default().to_owned();
            if !crate::history::is_output_of(turn.history, &response["output"]) {
                let output: String = response["output"].to_string().chars().take(MAX_SHOWN_CHARS).collect();
                let what =
                    format!("{}: {id} does not reply to {}: {output}", door.name(), turn.history.hex());
                return Err(Violation::new(Promise::History, what));
            }
            let Turn { parent, history, depth, .. } = *turn;
            let index = ledger.acknowledge(Acknowledged { id, parent, project, history, depth });
            Ok(Some(index))
        }
        Outcome::Refused(code) => {
            let is_expected = EXPECTED.iter().any(|expected| code.ends_with(expected));
            let what = format!("{}: a turn was refused with {code}", door.name());
            ledger.tally(door, |tally| *tally.refused.entry(code).or_default() += 1);
            if is_expected { Ok(None) } else { Err(Violation::new(Promise::Refusals, what)) }
        }
        Outcome::Cut => {
            ledger.tally(door, |tally| tally.cut += 1);
            Ok(None)
        }
        Outcome::Violation(what) => Err(Violation::new(Promise::Events, format!("{}: {what}", door.name()))),
    }
}

/// The next turn of a client: mostly its chain goes on, sometimes it branches off, or begins another one.
fn next_turn(ledger: &Ledger, project: usize, tip: Option<usize>, rng: &mut StdRng) -> Turn {
    let parent = match rng.random_range(0..100) {
        0..6 => None,
        6..20 => ledger.any(project, rng),
        _ => tip.filter(|tip| ledger.may_be_continued(*tip)),
    };
    turn_after(ledger, project, parent, rng)
}

/// A turn that continues this response, or begins a chain.
pub fn turn_after(ledger: &Ledger, project: usize, parent: Option<usize>, rng: &mut StdRng) -> Turn {
    let nonce: u64 = rng.random();
    let length = if rng.random_ratio(1, 200) { 50_000 } else { rng.random_range(0..800) };
    let text = format!("project {project}, {nonce:016x} {}", "x".repeat(length));
    let parent_of = parent.map(|parent| ledger.get(parent));
    let before = parent_of.as_ref().map_or(History::EMPTY, |parent| parent.history.answered());
    let call = parent_of.as_ref().and_then(|parent| parent.history.open_call());
    let mut body = json!({"model": "sim", "store": true});
    let history;
    match call {
        Some(call) => {
            let output = json!({"type": "function_call_output", "call_id": call, "output": text});
            history = before.and(&output);
            body["input"] = json!([output]);
        }
        None if rng.random_bool(0.5) => {
            history = before.and(&user(&text));
            body["input"] = json!(text);
        }
        None => {
            history = before.and(&user(&text));
            body["input"] = json!([user(&text)]);
        }
    }
    if let Some(parent) = &parent_of {
        body["previous_response_id"] = json!(parent.id);
    }
    let depth = parent_of.map_or(1, |parent| parent.depth + 1);
    Turn { parent, history, body, depth }
}
