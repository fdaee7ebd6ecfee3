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
use crate::rig::{Engine, PATIENCE, Rig, idle, within};
use crate::verify;
use crate::violations::{Promise, Violations};
use crate::worker::{Load, Volume};

const CLIENTS: usize = 12;
const FEW_CLIENTS: usize = 6;
const PAUSE: Duration = Duration::from_millis(5);
/// How long a fault goes on if each happens once.
const SHORT: Duration = Duration::from_millis(300);
/// Afterwards a gateway has opened what it keeps open.
const WARM_UP: Duration = Duration::from_millis(500);
/// What a gateway may hold at most, under every attack.
const MAX_MEMORY_BYTES: u64 = 256 << 20;
/// For each gateway: it keeps connections to upstreams for half a minute.
const SPARE_FILES: usize = 24;

/// How much happens.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// Random faults for this long.
    Time(Duration),
    /// So many deaths of gateways, one after the other.
    Kills(u64),
    /// Each fault once, the gateway's end first, and one damaged copy.
    EachOnce,
}

/// A fault, over a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Happened {
    pub times: u64,
    /// The longest time until all gateways were ready again.
    pub slowest_recovery: Duration,
}

/// What a run has found.
pub struct Report {
    pub engine: Engine,
    pub faults: BTreeMap<Fault, Happened>,
    pub doors: BTreeMap<Door, Tally>,
    pub verified: usize,
    pub damaged: Damaged,
    pub gauges: Vec<(String, u64)>,
    pub max_memory_bytes: u64,
    pub files: (usize, usize),
    pub violations: Violations,
}

/// Runs faults on one engine.
pub async fn run(binary: &Path, engine: Engine, amount: Amount, seed: u64) -> Report {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut rig = Rig::start(binary, engine, seed).await;
    let ledger = Arc::new(Ledger::default());
    let clients = if matches!(amount, Amount::EachOnce) { FEW_CLIENTS } else { CLIENTS };
    let volume = Volume { clients, pause: PAUSE, doors: &Door::ALL };
    let load = |seed| Load::start(&rig, &ledger, volume, seed);
    let warm_up = load(!seed);
    sleep(WARM_UP).await;
    warm_up.stop().await;
    idle(&rig).await;
    let files_at_start = open_files(&rig);
    let load = load(seed);
    let faults = inject_faults(&mut rig, &load, &ledger, amount, &mut rng).await;
    load.stop().await;
    rig.ready().await;
    verify::at_end(&rig, &ledger, &mut rng).await;
    let gauges = idle(&rig).await;
    verify::settled(&rig, &ledger).await;
    rig.measure();
    let may_be_open = files_at_start + SPARE_FILES * rig.gateways.len();
    within(PATIENCE, async || open_files(&rig) <= may_be_open).await;
    let files = (files_at_start, open_files(&rig));
    check(&rig, files);
    let (code, said) = rig.command(&["store", "check", "--json"]).await;
    if code != 0 {
        rig.violations
            .add(Promise::Damage, format!("{}: store check ends with {code}: {said}", engine.name()));
    }
    let (doors, verified, max_memory_bytes) = (ledger.tallies(), ledger.len(), rig.max_memory_bytes);
    let copies = match (engine, amount) {
        (Engine::Postgres, _) => 0,
        (Engine::Sqlite, Amount::EachOnce | Amount::Kills(_)) => 1,
        (Engine::Sqlite, Amount::Time(time)) => 2 + time.as_secs() as usize / 30,
    };
    let database = rig.stop_gateways().await;
    let damaged = damage(&rig, &database, copies, &ledger, &mut rng).await;
    let violations = rig.violations.clone();
    Report { engine, faults, doors, verified, damaged, gauges, max_memory_bytes, files, violations }
}

/// Lets faults happen, and verifies after each of them.
async fn inject_faults(
    rig: &mut Rig,
    load: &Load,
    ledger: &Ledger,
    amount: Amount,
    rng: &mut StdRng,
) -> BTreeMap<Fault, Happened> {
    let started = Instant::now();
    let mut once = Fault::possible(rig.engine);
    let (mut faults, mut verified, mut happened) = (BTreeMap::new(), 0, 0);
    loop {
        sleep(Duration::from_millis(rng.random_range(20..400))).await;
        let next = match amount {
            Amount::Time(time) if started.elapsed() >= time => None,
            Amount::Time(_) => Some((Fault::random(rig.engine, rng), Fault::random_time(rng))),
            Amount::Kills(times) => (happened < times).then_some((Fault::KillGateway, SHORT)),
            Amount::EachOnce => once.next().map(|fault| (fault, SHORT)),
        };
        let Some((fault, time)) = next else { return faults };
        happened += 1;
        fault.inject(rig, load, time, rng).await;
        let over = Instant::now();
        rig.ready().await;
        let of_fault: &mut Happened = faults.entry(fault).or_default();
        of_fault.times += 1;
        of_fault.slowest_recovery = of_fault.slowest_recovery.max(over.elapsed());
        verified = verify::after_fault(rig, ledger, verified, rng).await;
    }
}

fn open_files(rig: &Rig) -> usize {
    rig.gateways.iter().map(|gateway| gateway.process.open_files()).sum()
}

fn check(rig: &Rig, files: (usize, usize)) {
    let name = rig.engine.name();
    if rig.max_memory_bytes > MAX_MEMORY_BYTES {
        rig.violations.add(Promise::Bounds, format!("{name}: a gateway held {} bytes", rig.max_memory_bytes));
    }
    if files.1 > files.0 + SPARE_FILES * rig.gateways.len() {
        rig.violations
            .add(Promise::Bounds, format!("{name}: open files grew from {} to {}", files.0, files.1));
    }
}
