//! Faults under load, one after another, and the report of what came of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::damage::{Damaged, damage};
use crate::door::Door;
use crate::fault::Fault;
use crate::ledger::{Ledger, Tally};
use crate::stand::{Engine, Stand, idle};
use crate::verify;
use crate::violations::Violations;
use crate::worker::{Load, Volume};

const CLIENTS: usize = 12;
const PAUSE: Duration = Duration::from_millis(5);
/// Afterwards a gateway has opened what it keeps open.
const WARM_UP: Duration = Duration::from_millis(500);
/// What a gateway may hold at most, under every attack.
const MAX_MEMORY_BYTES: u64 = 256 << 20;
/// Connections to upstreams come and go.
const SPARE_FILES: usize = 16;

/// How much happens.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// Random faults for this long.
    Time(Duration),
    /// Each fault once, the gateway's end first, and one damaged copy.
    EachOnce,
}

/// What a run has found.
pub struct Report {
    pub engine: Engine,
    pub faults: BTreeMap<Fault, u64>,
    pub doors: BTreeMap<Door, Tally>,
    pub verified: usize,
    pub damaged: Damaged,
    pub gauges: Vec<(String, u64)>,
    pub max_memory_bytes: u64,
    pub files: (usize, usize),
}

/// Runs faults on one engine. What is violated is in `violations` afterwards.
pub async fn run(binary: &Path, engine: Engine, amount: Amount, seed: u64, violations: &Violations) -> Report {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stand = Stand::start(binary, engine, seed, violations).await;
    let ledger = Arc::new(Ledger::default());
    let load = || Load::start(&stand, &ledger, Volume { clients: CLIENTS, pause: PAUSE }, seed);
    let warm_up = load();
    sleep(WARM_UP).await;
    warm_up.stop().await;
    idle(&stand).await;
    let files_at_start = open_files(&stand);
    let load = load();
    let faults = break_things(&mut stand, &load, &ledger, amount, &mut rng).await;
    load.stop().await;
    stand.ready().await;
    verify::at_end(&stand, &ledger, &mut rng).await;
    let gauges = idle(&stand).await;
    stand.measure();
    let files = (files_at_start, open_files(&stand));
    check(&stand, files);
    let (code, said) = stand.command(&["store", "check", "--json"]).await;
    if code != 0 {
        violations.add(format!("{}: store check ends with {code}: {said}", engine.name()));
    }
    let (doors, verified, max_memory_bytes) = (ledger.tallies(), ledger.len(), stand.max_memory_bytes);
    let copies = match (engine, amount) {
        (Engine::Postgres, _) => 0,
        (Engine::Sqlite, Amount::EachOnce) => 1,
        (Engine::Sqlite, Amount::Time(time)) => 2 + time.as_secs() as usize / 30,
    };
    let database = stand.stop_gateways().await;
    let damaged = damage(&stand, &database, copies, &ledger, &mut rng).await;
    Report { engine, faults, doors, verified, damaged, gauges, max_memory_bytes, files }
}

/// Lets faults happen, and verifies after each of them; returns how many of each there were.
async fn break_things(
    stand: &mut Stand,
    load: &Load,
    ledger: &Ledger,
    amount: Amount,
    rng: &mut StdRng,
) -> BTreeMap<Fault, u64> {
    let (started, possible) = (Instant::now(), Fault::all(stand.engine));
    let mut once = Fault::each_once(stand.engine).into_iter();
    let (mut faults, mut verified) = (BTreeMap::new(), 0);
    loop {
        sleep(Duration::from_millis(rng.random_range(20..400))).await;
        let fault = match amount {
            Amount::Time(time) if started.elapsed() < time => possible[rng.random_range(0..possible.len())],
            Amount::EachOnce => match once.next() {
                Some(fault) => fault,
                None => return faults,
            },
            Amount::Time(_) => return faults,
        };
        *faults.entry(fault).or_default() += 1;
        fault.happen(stand, load, rng).await;
        stand.ready().await;
        verified = verify::after_fault(stand, ledger, verified, rng).await;
    }
}

fn open_files(stand: &Stand) -> usize {
    stand.gateways.iter().map(|gateway| gateway.process.open_files()).sum()
}

fn check(stand: &Stand, files: (usize, usize)) {
    let name = stand.engine.name();
    if stand.max_memory_bytes > MAX_MEMORY_BYTES {
        stand.violations.add(format!("{name}: a gateway held {} bytes", stand.max_memory_bytes));
    }
    if files.1 > files.0 + SPARE_FILES {
        stand.violations.add(format!("{name}: open files grew from {} to {}", files.0, files.1));
    }
}
