//! How fast turns become durable, and what that costs.
//!
//! `cargo run --release -p antiphon-store --example writes [tasks]`: 64 tasks, or as many as are asked for, record turns
//! of about 2 KB, each continuing its last one. Prints turns per second and the CPU time of the process per turn, for
//! both durabilities, what of it the making of the turns takes, and how long the longest chain takes to load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use antiphon_store::chain::{Chains, Turn};
use antiphon_store::{
    ChainQuery, Clock, Durability, LogRow, Record, Status, StoreOptions, StoreUrl, StoredResponse,
    StoredTurn, SystemClock, Timestamp,
};
use tokio::task::JoinSet;

const TURNS: u64 = 1000;

/// No two words of it alike, or it would compress better than what people write.
const TEXT: &str = "A quick brown fox jumps over one lazy dog while five boxing wizards pack my box with dozens of liquor jugs; sphinx, black quartz, judge vow: how vexingly daft zebras hop, bright vixens doze, and waltzing nymphs glib beg for quick jigs to vex Bud at dawn again.";
const USUAL_RESPONSE: &str = include_str!("../tests/contract/usual-response.json");

fn main() {
    let tasks = std::env::args().nth(1).map_or(64, |tasks| tasks.parse().expect("a number of tasks"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    for durability in [Durability::Full, Durability::Normal] {
        let path = directory.path().join(format!("{durability:?}.db"));
        let url = format!("sqlite://{}", path.display()).parse().expect("the path has no odd parts");
        runtime.block_on(measure(&url, durability, tasks));
        let size = path.metadata().expect("the database is there").len();
        println!("  {} bytes a turn on disk", size / (tasks * TURNS));
    }
    let (began, project) = (cpu_time(), ProjectId::new(ProjectId::DEFAULT));
    for n in 0..tasks * TURNS {
        std::hint::black_box(record(&project, 0, n, None));
    }
    println!("{:.1} us of CPU for the making of a turn", per_turn(cpu_time() - began, tasks));
}

async fn measure(url: &StoreUrl, durability: Durability, tasks: u64) {
    let options = StoreOptions { durability, ..StoreOptions::default() };
    let store = antiphon_store::open(url, options).await.expect("the store opens");
    let chains = Arc::new(Chains::new(Arc::clone(&store), 64 << 20));
    let (began, cpu) = (Instant::now(), cpu_time());
    let mut running = JoinSet::new();
    for task in 0..tasks {
        running.spawn(record_chain(Arc::clone(&chains), task));
    }
    let mut last = None;
    while let Some(done) = running.join_next().await {
        last = Some(done.expect("every turn is recorded"));
    }
    let (elapsed, cpu) = (began.elapsed(), cpu_time() - cpu);
    let rate = (tasks * TURNS) as f64 / elapsed.as_secs_f64();
    println!("{durability:?}: {rate:.0} turns/s, {:.1} us of CPU a turn", per_turn(cpu, tasks));

    let query = ChainQuery { from: last.expect("there are tasks"), visible_at: None, max_turns: 10_000 };
    let began = Instant::now();
    let chain =
        store.load_chain(&ProjectId::new(ProjectId::DEFAULT), query).await.expect("the chain is whole");
    println!("  {:?} to load a chain of {} turns", began.elapsed(), chain.len());
    store.close().await;
}

fn per_turn(cpu: Duration, tasks: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / (tasks * TURNS) as f64
}

async fn record_chain(chains: Arc<Chains>, task: u64) -> ResponseId {
    let project = ProjectId::new(ProjectId::DEFAULT);
    let mut parent: Option<Arc<Turn>> = None;
    for number in 0..TURNS {
        let record = record(&project, task, number, parent.as_deref());
        let (id, now) = (record.response.turn.id, record.response.created_at);
        chains.record(record, parent).await.expect("the turn is recorded");
        parent = chains.load(&project, id, now, 10_000).await.expect("the turn is loaded");
    }
    parent.expect("the last turn is there").id
}

fn record(project: &ProjectId, task: u64, number: u64, parent: Option<&Turn>) -> Record {
    let now = SystemClock.now();
    let mut random = [0; 10];
    random[2..].copy_from_slice(&(task * TURNS + number).to_be_bytes());
    let id = ResponseId::mint(now.unix_ms().unsigned_abs(), &random);
    // As long as the ids of the real API.
    let upstream =
        format!("{:016x}{:032x}", now.unix_ms(), (task * TURNS + number + 1) * 0x9e37_79b9_7f4a_7c15);
    let item_id = format!("msg_{upstream}");
    let input = format!(r#"[{{"type":"message","role":"user","content":"{}"}}]"#, &TEXT[..50]);
    let output = format!(r#"[{{"id":"{item_id}","type":"message","content":"{}"}}]"#, &TEXT[..255]);
    let body = USUAL_RESPONSE
        .replace("$id", &id.to_string())
        .replace("$parent", &upstream)
        .replace("$n", &number.to_string());
    let depth = parent.map_or(1, |parent| parent.depth + 1);
    let turn = StoredTurn {
        id,
        parent: parent.map(|parent| parent.id),
        depth,
        status: Status::Completed,
        account: "openai-a".into(),
        boundary: "openai-org-1".into(),
        upstream_id: Some(format!("resp_{upstream}")),
        model: "gpt-5.1-mini".into(),
        expires_at: Some(now.plus(Duration::from_hours(720))),
        input: input.into(),
        referenced: Vec::new(),
        output: output.into(),
        deletes: None,
    };
    let item_id = ItemId::new(&item_id).expect("the id is short");
    Record {
        project: project.clone(),
        response: StoredResponse { turn, created_at: now, body: body.into() },
        items: vec![(item_id, 1)],
        log: log_row(project, id, now, depth),
        settlement: None,
        append: None,
        needs_parent: parent.is_some(),
    }
}

fn log_row(project: &ProjectId, response: ResponseId, at: Timestamp, depth: u32) -> LogRow {
    LogRow {
        at,
        project: project.clone(),
        response,
        key: None,
        account: Some("openai-a".into()),
        model: "gpt-5.1-mini".into(),
        transport: "http".into(),
        outcome: "completed".into(),
        http_status: 200,
        code: None,
        depth,
        attempts: 1,
        input_tokens: 1234,
        cached_tokens: 1024,
        output_tokens: 345,
        reasoning_tokens: 128,
        cost_nano_usd: None,
        is_estimated: false,
        duration: Duration::from_micros(1_234_567),
        first_event: Some(Duration::from_micros(345_678)),
        sent: Some(Duration::from_micros(1_234)),
        attempt_log: None,
        reasoning: Some("full".into()),
    }
}

/// Of all threads, in user and kernel mode: fields 14 and 15 of `/proc/self/stat`, in hundredths of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
