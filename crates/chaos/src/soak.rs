//! Modest load for a long time: what a gateway holds must not grow.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep_until};

use crate::door::Door;
use crate::fault::Fault;
use crate::ledger::Ledger;
use crate::rig::{Engine, Rig, gauges, idle};
use crate::verify;
use crate::violations::{Promise, Violations};
use crate::worker::{Load, Volume};

/// As many as turns a second: each client pauses for a second between two turns.
const CLIENTS: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);
/// After each of them, a fault happens.
const SAMPLES: u32 = 120;
/// The share of the time after which the first figures are taken.
const WARM_UP_OF: u32 = 6;
/// Samples that a figure is the median of, as a single one may be taken in the middle of a large turn.
const WINDOW: usize = 8;
const MAX_GROWTH_PERCENT: u64 = 110;
/// Connections to upstreams come and go.
const SPARE_FILES: u64 = 8;
/// Threads for work that blocks end some seconds after it.
const SPARE_THREADS: u64 = 8;

/// Everything but what ends the gateway or its database: what is measured is one process.
const RARE: [Fault; 7] = [
    Fault::ClientsLeave,
    Fault::HostileUpstream,
    Fault::HostileClients,
    Fault::FreezeUpstream,
    Fault::FreezeGateway,
    Fault::KillPostgres,
    Fault::FreezePostgres,
];

/// What a gateway holds at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    pub memory_bytes: u64,
    pub open_files: u64,
    pub threads: u64,
    pub database_bytes: u64,
    pub turns: u64,
    pub reservations: u64,
    pub connections: u64,
}

/// What a soak has found.
pub struct SoakReport {
    pub engine: Engine,
    pub time: Duration,
    pub acknowledged: usize,
    pub faults: usize,
    pub warm: Sample,
    pub end: Sample,
    pub max_memory_bytes: u64,
    pub violations: Violations,
}

/// Runs for this long, and says what the gateway held after the warm-up and at the end.
pub async fn run(binary: &Path, engine: Engine, time: Duration, seed: u64) -> SoakReport {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut rig = Rig::start(binary, engine, seed).await;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&rig, &ledger, Volume { clients: CLIENTS, pause: PAUSE, doors: &Door::ALL }, seed);
    let started = Instant::now();
    let (mut samples, mut faults, mut verified) = (Vec::new(), 0, 0);
    for n in 1..=SAMPLES {
        sleep_until(started + time * n / SAMPLES).await;
        samples.push(sample(&rig).await);
        // The last samples are taken in peace.
        if n < SAMPLES - WINDOW as u32 {
            let fault = RARE[faults % RARE.len()];
            faults += 1;
            fault.inject(&mut rig, &load, Fault::random_time(&mut rng), &mut rng).await;
            rig.ready().await;
            verified = verify::after_fault(&rig, &ledger, verified, &mut rng).await;
        }
        let now = samples[samples.len() - 1];
        println!("{:>6} s  {}  {}", started.elapsed().as_secs(), engine.name(), now);
    }
    load.stop().await;
    let warm_up = (SAMPLES / WARM_UP_OF) as usize;
    let (warm, end) =
        (median(&samples[warm_up..warm_up + WINDOW]), median(&samples[samples.len() - WINDOW..]));
    check(&rig, warm, end).await;
    verify::at_end(&rig, &ledger, &mut rng).await;
    verify::settled(&rig, &ledger).await;
    rig.measure();
    let (acknowledged, max_memory_bytes) = (ledger.len(), rig.max_memory_bytes);
    let violations = rig.violations.clone();
    SoakReport { engine, time, acknowledged, faults, warm, end, max_memory_bytes, violations }
}

async fn check(rig: &Rig, warm: Sample, end: Sample) {
    let name = rig.engine.name();
    if end.memory_bytes * 100 > warm.memory_bytes * MAX_GROWTH_PERCENT {
        rig.violations.add(
            Promise::Bounds,
            format!("{name}: memory grew from {} to {} bytes", warm.memory_bytes, end.memory_bytes),
        );
    }
    if end.open_files > warm.open_files + SPARE_FILES {
        rig.violations.add(
            Promise::Bounds,
            format!("{name}: open files grew from {} to {}", warm.open_files, end.open_files),
        );
    }
    if end.threads > warm.threads + SPARE_THREADS {
        rig.violations
            .add(Promise::Bounds, format!("{name}: threads grew from {} to {}", warm.threads, end.threads));
    }
    idle(rig).await;
}

async fn sample(rig: &Rig) -> Sample {
    let process = &rig.gateways[0].process;
    let folder =
        rig.postgres.as_ref().map_or_else(|| rig.folder(), |server| server.folder().join("data/base"));
    let gauges = gauges(&process.client).await;
    let gauge = |name: &str| gauges.iter().find(|(known, _)| known == name).map_or(0, |(_, value)| *value);
    Sample {
        memory_bytes: process.memory_bytes(),
        open_files: process.open_files() as u64,
        threads: process.threads() as u64,
        database_bytes: size(&folder),
        turns: gauge("antiphon_turns_in_flight"),
        reservations: gauge("antiphon_reservations"),
        connections: gauge("antiphon_connections"),
    }
}

/// The bytes of all files below a folder.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size_of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size_of).sum()
}

fn median(samples: &[Sample]) -> Sample {
    let median_of = |figure: fn(&Sample) -> u64| {
        let mut figures: Vec<u64> = samples.iter().map(figure).collect();
        figures.sort_unstable();
        figures[figures.len() / 2]
    };
    Sample {
        memory_bytes: median_of(|sample| sample.memory_bytes),
        open_files: median_of(|sample| sample.open_files),
        threads: median_of(|sample| sample.threads),
        database_bytes: median_of(|sample| sample.database_bytes),
        turns: median_of(|sample| sample.turns),
        reservations: median_of(|sample| sample.reservations),
        connections: median_of(|sample| sample.connections),
    }
}

const MIB: f64 = 1_048_576.0;

impl Display for Sample {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / MIB;
        write!(
            f,
            "{:.1} MiB resident, {} files, {} threads, {} connections, {} turns, {} reservations, database {:.1} MiB",
            mib(self.memory_bytes),
            self.open_files,
            self.threads,
            self.connections,
            self.turns,
            self.reservations,
            mib(self.database_bytes)
        )
    }
}

impl Display for SoakReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} s: {} turns acknowledged, {} faults, at most {:.1} MiB resident",
            self.engine.name(),
            self.time.as_secs(),
            self.acknowledged,
            self.faults,
            self.max_memory_bytes as f64 / MIB
        )?;
        writeln!(f, "  after the warm-up: {}", self.warm)?;
        write!(f, "  at the end:        {}", self.end)
    }
}
