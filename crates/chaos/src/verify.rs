//! What must be true after every fault, and at the end.

use std::time::Duration;

use antiphon_testkit::Client;
use futures_util::StreamExt;
use futures_util::stream;
use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::door::{Connection, Door};
use crate::history;
use crate::ledger::Ledger;
use crate::rig::{self, PATIENCE, PROJECTS, Rig, key_name};
use crate::upstream;
use crate::violations::Promise;
use crate::worker::{judge, turn_after};

const AT_ONCE: usize = 8;
/// Responses that are read again after a fault, besides the newest.
const OLD_ONES: usize = 20;
const FOREIGN: usize = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// Reads what was acknowledged since `from`, and some older responses. Returns where to begin the next time.
pub async fn after_fault(rig: &Rig, ledger: &Ledger, from: usize, rng: &mut StdRng) -> usize {
    let end = ledger.len();
    let old = (0..OLD_ONES.min(from)).map(|_| rng.random_range(0..from));
    let indices: Vec<usize> = (from..end).chain(old).collect();
    read(rig, ledger, &indices).await;
    for _ in 0..FOREIGN.min(end) {
        foreign(rig, ledger, rng.random_range(0..end)).await;
    }
    end
}

/// Reads every acknowledged response, and continues every chain and branch at its end.
pub async fn at_end(rig: &Rig, ledger: &Ledger, rng: &mut StdRng) {
    let all: Vec<usize> = (0..ledger.len()).collect();
    read(rig, ledger, &all).await;
    let leaves = ledger.leaves();
    stream::iter(leaves.into_iter().enumerate())
        .for_each_concurrent(AT_ONCE, |(n, leaf)| {
            let rng = StdRng::seed_from_u64(rng.random());
            async move { continue_leaf(rig, ledger, n, leaf, rng).await }
        })
        .await;
}

/// Nothing is reserved any more, and every acknowledged turn has been counted.
pub async fn settled(rig: &Rig, ledger: &Ledger) {
    let (_, token) = rig.command(&["admin", "token"]).await;
    let client = rig.gateways[0].process.client.with_secret(token.trim());
    for project in 0..PROJECTS {
        let path = format!("/api/keys/{}/limits", key_name(project));
        let mut limits = Value::Null;
        let is_released = rig::within(PATIENCE, async || {
            let reply = client.try_request(Method::GET, &path, &[], "").await;
            limits = reply.map_or(Value::Null, |reply| rig::json(&reply.body)["limits"].take());
            limits.as_array().is_some_and(|limits| limits.iter().all(|limit| limit["held"] == 0.0))
        });
        if !is_released.await {
            rig.violations.add(Promise::Bounds, format!("reservations are left: {limits}"));
        }
        let counted = limits.as_array().into_iter().flatten().filter_map(|limit| limit["used"].as_f64());
        let expected = ledger.count(project) as f64 * upstream::TOKENS as f64;
        if counted.fold(0.0, f64::max) < expected {
            rig.violations.add(Promise::Usage, format!("{expected} tokens were acknowledged, but: {limits}"));
        }
    }
}

async fn read(rig: &Rig, ledger: &Ledger, indices: &[usize]) {
    let clients: Vec<Vec<Client>> = rig
        .gateways
        .iter()
        .map(|gateway| rig.secrets.iter().map(|secret| gateway.process.client.with_secret(secret)).collect())
        .collect();
    let clients = &clients;
    stream::iter(indices.iter().enumerate())
        .for_each_concurrent(AT_ONCE, |(n, index)| async move {
            let project = ledger.get(*index).project;
            if let Err(what) = read_one(&clients[n % clients.len()][project], ledger, *index).await {
                rig.violations.add(Promise::Durable, what);
            }
        })
        .await;
}

/// An acknowledged response has to be there, exactly as it was.
async fn read_one(client: &Client, ledger: &Ledger, index: usize) -> Result<(), String> {
    let known = ledger.get(index);
    let path = format!("/v1/responses/{}", known.id);
    let mut last = String::from("nothing");
    let found = rig::within(PATIENCE, async || {
        let Some(reply) = client.try_request(Method::GET, &path, &[], "").await else { return false };
        last = format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body));
        // While a fault goes on, a store that cannot be reached is no loss.
        if reply.status == 503 {
            tokio::time::sleep(PAUSE).await;
        }
        reply.status != 503
    });
    if !found.await {
        return Err(format!("{} could not be read in {PATIENCE:?}: {last}", known.id));
    }
    let Some(json) = last.strip_prefix("200 OK ").map(|body| rig::json(body.as_bytes())) else {
        return Err(format!("{} was acknowledged, but is read as {last}", known.id));
    };
    let parent = known.parent.map(|parent| ledger.get(parent).id);
    let is_same = json["id"] == known.id.as_str()
        && json["status"] == "completed"
        && json["previous_response_id"].as_str() == parent.as_deref();
    if !is_same || !history::is_output_of(known.history, &json["output"]) {
        return Err(format!("{} is read as {json}", known.id));
    }
    Ok(())
}

/// Nobody sees, or continues, what belongs to another project.
async fn foreign(rig: &Rig, ledger: &Ledger, index: usize) {
    let known = ledger.get(index);
    let secret = &rig.secrets[(known.project + 1) % PROJECTS];
    let client = rig.gateways[index % rig.gateways.len()].process.client.with_secret(secret);
    let read = client.try_request(Method::GET, &format!("/v1/responses/{}", known.id), &[], "").await;
    let body = format!(r#"{{"model":"sim","input":"x","previous_response_id":"{}"}}"#, known.id);
    let continued = client.try_request(Method::POST, "/v1/responses", &[], body).await;
    for (reply, expected) in [(read, 404), (continued, 400)] {
        // Refused for another reason, or not answered: nothing was seen.
        let Some(reply) = reply.filter(|reply| reply.status != 503) else { continue };
        if reply.status != expected {
            let body = String::from_utf8_lossy(&reply.body);
            rig.violations.add(
                Promise::Isolation,
                format!("another project gets {} of {}: {body}", reply.status, known.id),
            );
        }
    }
}

/// A chain has to go on from its end, through any door.
async fn continue_leaf(rig: &Rig, ledger: &Ledger, n: usize, leaf: usize, mut rng: StdRng) {
    let project = ledger.get(leaf).project;
    let door = Door::ALL[n % Door::ALL.len()];
    let gateway = &rig.gateways[n % rig.gateways.len()];
    let mut connection = Connection::new(&gateway.process.url, &rig.secrets[project], &rig.targets);
    let turn = turn_after(ledger, project, Some(leaf), &mut rng);
    let continued = rig::within(PATIENCE, async || {
        let outcome = connection.turn(door, turn.body.clone()).await;
        match judge(ledger, door, project, &turn, outcome) {
            Ok(acknowledged) => acknowledged.is_some(),
            Err(violation) => {
                rig.violations.push(violation);
                true
            }
        }
    });
    if !continued.await {
        let id = ledger.get(leaf).id;
        rig.violations.add(Promise::Durable, format!("{id} could not be continued in {PATIENCE:?}"));
    }
}
