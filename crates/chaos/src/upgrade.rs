//! From one release to the next, replica by replica, under load.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use antiphon_testkit::Process;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::door::Door;
use crate::ledger::Ledger;
use crate::rig::{Engine, Rig, idle};
use crate::verify;
use crate::violations::{Promise, Violations};
use crate::worker::{Load, Volume};

const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(10);
/// For a release that cannot read events of background responses as the next one writes them.
const WITHOUT_EVENTS: [Door; 4] = [Door::Json, Door::Sse, Door::Socket, Door::Polled];
/// How long each mixture of releases serves.
const PERIOD: Duration = Duration::from_secs(5);

/// Migrates the schema under two replicas of the old release on PostgreSQL, and replaces them one by one. `reads_events`: the old
/// release can read on in background responses that a replica of the new one runs.
pub async fn run(old: &Path, new: &Path, reads_events: bool, seed: u64) -> Violations {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut rig = Rig::start(old, Engine::Postgres, seed).await;
    let ledger = Arc::new(Ledger::default());
    let doors: &'static [Door] = if reads_events { &Door::ALL } else { &WITHOUT_EVENTS };
    let load = Load::start(&rig, &ledger, Volume { clients: CLIENTS, pause: PAUSE, doors }, seed);
    sleep(PERIOD).await;
    let mut verified = verify::after_fault(&rig, &ledger, 0, &mut rng).await;
    println!("{verified} responses acknowledged by the old release");

    let replicas = rig.gateways.len();
    rig.upgrade_commands(new);
    let (code, said) = rig.command(&["migrate"]).await;
    if code != 0 {
        rig.violations.add(Promise::Recovery, format!("migrate ends with {code}: {said}"));
    }
    sleep(PERIOD).await;
    verified = verify::after_fault(&rig, &ledger, verified, &mut rng).await;
    println!("{verified} after the migration: {}", said.trim().replace('\n', ", "));
    refuse_the_old_release(&rig, old).await;

    for replaced in 1..=replicas {
        rig.replace_oldest_gateway().await;
        rig.ready().await;
        sleep(PERIOD).await;
        verified = verify::after_fault(&rig, &ledger, verified, &mut rng).await;
        println!("{verified} with {replaced} of {replicas} replicas on the new release");
    }
    load.stop().await;
    idle(&rig).await;
    verify::at_end(&rig, &ledger, &mut rng).await;
    verify::settled(&rig, &ledger).await;
    let (code, said) = rig.command(&["store", "check"]).await;
    if code != 0 {
        rig.violations.add(Promise::Damage, format!("store check ends with {code}: {said}"));
    }
    println!("{} responses read again and continued at their ends", ledger.len());
    rig.stop_gateways().await;
    rig.violations.clone()
}

/// An older release does not start on the newer schema, and says why.
async fn refuse_the_old_release(rig: &Rig, old: &Path) {
    let lines = match Process::try_start(old, &rig.another_replica()).await {
        Ok(_) => vec!["it started".to_owned()],
        Err(lines) => lines,
    };
    if !lines.iter().any(|line| line.contains("newer build")) {
        rig.violations.add(Promise::Refusals, format!("the old release on the newer schema: {lines:?}"));
    }
}
