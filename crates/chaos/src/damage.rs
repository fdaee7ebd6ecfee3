//! Bits that flip on disk: what is read afterwards is what was written, or an error.

use std::path::Path;

use antiphon_testkit::{Process, Setup};
use http::Method;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::door::{Connection, Door, Outcome};
use crate::history;
use crate::ledger::Ledger;
use crate::rig::{self, Rig, Targets};
use crate::violations::Promise;
use crate::worker::turn_after;

/// One bit of so many bytes at most: a gateway starts on most copies.
const BYTES_PER_FLIP: usize = 32 << 10;
/// Responses that are read and continued in each copy.
const READ: usize = 60;

/// On a busy machine a turn may also take too long, but not each time.
const TRIES: usize = 4;

/// What came of damaged copies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Damaged {
    pub copies: u64,
    pub flipped_bits: u64,
    /// Copies that the gateway did not start on.
    pub refused: u64,
    /// Copies that `antiphon store check` found damaged.
    pub found_by_check: u64,
    /// Responses that were read or continued as they should be.
    pub right: u64,
    /// Those that ended with an error.
    pub errors: u64,
}

/// How a request to a damaged copy ended.
enum Found {
    Right,
    /// The error says that the store is damaged.
    Reported,
    /// Another error, which `store check` has to explain.
    Unreported(String),
    Wrong(String),
}

/// Flips bits in copies of the database; its gateway has been stopped.
pub async fn damage(rig: &Rig, database: &Path, copies: usize, ledger: &Ledger, rng: &mut StdRng) -> Damaged {
    let mut damaged = Damaged::default();
    for _ in 0..copies {
        damage_copy(rig, database, ledger, rng, &mut damaged).await;
    }
    damaged
}

async fn damage_copy(rig: &Rig, database: &Path, ledger: &Ledger, rng: &mut StdRng, damaged: &mut Damaged) {
    let setup = rig.setup();
    let mut bytes = std::fs::read(database).expect("the database is ours");
    let flips = rng.random_range(1..=bytes.len() / BYTES_PER_FLIP + 1);
    for _ in 0..flips {
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
    }
    std::fs::write(setup.database(), bytes).expect("a writable folder");
    damaged.copies += 1;
    damaged.flipped_bits += flips as u64;
    let mut unreported = Vec::new();
    match Process::try_start(rig.binary(), &setup).await {
        Err(_) => damaged.refused += 1,
        Ok(gateway) => {
            unreported = read(rig, &setup, &gateway, ledger, rng, damaged).await;
            gateway.terminate().await;
        }
    }
    let (code, said) = rig.command_at(&setup, &["store", "check", "--json"]).await;
    damaged.found_by_check += u64::from(code != 0);
    if let (0, Some(first)) = (code, unreported.first()) {
        let what = format!("a damaged copy: {first}, but store check finds nothing: {said}");
        rig.violations.add(Promise::Damage, what);
    }
}

/// Reads and continues some responses; returns the errors that do not speak of damage.
async fn read(
    rig: &Rig,
    setup: &Setup,
    gateway: &Process,
    ledger: &Ledger,
    rng: &mut StdRng,
    damaged: &mut Damaged,
) -> Vec<String> {
    let mut unreported = Vec::new();
    for n in 0..READ.min(ledger.len()) {
        let index = rng.random_range(0..ledger.len());
        let mut found = Found::Right;
        for _ in 0..TRIES {
            found = if n % 2 == 0 {
                get(rig, gateway, ledger, index).await
            } else {
                continue_from(rig, gateway, ledger, index, rng).await
            };
            if !matches!(found, Found::Unreported(_)) {
                break;
            }
        }
        match found {
            Found::Right => damaged.right += 1,
            Found::Reported => damaged.errors += 1,
            Found::Unreported(error) => {
                damaged.errors += 1;
                unreported.push(error);
            }
            Found::Wrong(what) => {
                let kept = setup.database().with_extension("wrong");
                std::fs::copy(setup.database(), &kept).ok();
                rig.violations.add(Promise::Damage, format!("a damaged copy: {what}"));
            }
        }
    }
    unreported
}

async fn get(rig: &Rig, gateway: &Process, ledger: &Ledger, index: usize) -> Found {
    let known = ledger.get(index);
    let client = gateway.client.with_secret(&rig.secrets[known.project]);
    let path = format!("/v1/responses/{}", known.id);
    let Some(reply) = client.try_request(Method::GET, &path, &[], "").await else {
        return Found::Unreported(format!("{} is not answered", known.id));
    };
    let json = rig::json(&reply.body);
    match reply.status.as_u16() {
        200 if history::is_output_of(known.history, &json["output"]) => Found::Right,
        200 => Found::Wrong(format!("{} is read as {json}", known.id)),
        500 if json["error"]["code"] == "store_damaged" => Found::Reported,
        status => Found::Unreported(format!("{} is read as {status} {}", known.id, json["error"]["code"])),
    }
}

async fn continue_from(
    rig: &Rig,
    gateway: &Process,
    ledger: &Ledger,
    index: usize,
    rng: &mut StdRng,
) -> Found {
    let known = ledger.get(index);
    let mut connection = Connection::new(&gateway.url, &rig.secrets[known.project], &Targets::default());
    let turn = turn_after(ledger, known.project, Some(index), rng);
    match connection.turn(Door::Json, turn.body).await {
        Outcome::Acknowledged(response) if history::is_output_of(turn.history, &response["output"]) => {
            Found::Right
        }
        Outcome::Acknowledged(_) => Found::Wrong(format!("{} goes on with a wrong history", known.id)),
        Outcome::Refused(code) if code.ends_with("store_damaged") => Found::Reported,
        Outcome::Refused(code) => Found::Unreported(format!("{} cannot be continued: {code}", known.id)),
        Outcome::Cut => {
            Found::Unreported(format!("{} cannot be continued: the connection was cut", known.id))
        }
        Outcome::Violation(violation) => Found::Wrong(violation),
    }
}
