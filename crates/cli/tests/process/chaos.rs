//! Faults under load, each once: the short form of `make chaos`.

use antiphon_chaos::Engine;
use antiphon_chaos::chaos::{self, Amount};

use crate::binary;

const SEED: u64 = 1;

async fn survives(engine: Engine) {
    let report = chaos::run(binary(), engine, Amount::EachOnce, SEED).await;
    println!("seed {SEED}: {report}");
    let violations = report.violations.list();
    assert!(violations.is_empty(), "seed {SEED}: {violations:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_every_fault_on_sqlite() {
    survives(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_every_fault_on_postgresql() {
    survives(Engine::Postgres).await;
}
