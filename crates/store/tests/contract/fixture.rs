//! The stores under test, and the turns that are put into them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use antiphon_protocol::id::{ItemId, KeyId, ProjectId, ResponseId};
use antiphon_protocol::{item, json};
use antiphon_store::{
    AuditEntry, AuditQuery, ChainQuery, LogRow, Record, SecretHash, Status, Store, StoreOptions, StoredKey,
    StoredResponse, StoredTurn, Timestamp,
};
use antiphon_testkit::{SharedDatabase, eventually};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// More than any test puts into the request log and looks at.
const MAX_ROWS: u32 = 1_000;

/// Something that makes empty stores.
pub(crate) trait Fixture: Send + Sync + 'static {
    fn new() -> Self;

    /// Opens the store. It holds what an earlier one of this fixture has stored, if that [`survives`](Self::survives).
    fn open_with(&self, options: StoreOptions) -> impl Future<Output = Arc<dyn Store>> + Send;

    fn survives(&self) -> bool;

    fn open(&self) -> impl Future<Output = Arc<dyn Store>> + Send {
        self.open_with(patient())
    }
}

/// That the machine is busy is no failure of the store: only tests about deadlines have short ones.
pub(crate) fn patient() -> StoreOptions {
    let long = Duration::from_secs(180);
    StoreOptions { commit_timeout: long, read_timeout: long, ..StoreOptions::default() }
}

pub(crate) struct InFile(TempDir);

pub(crate) struct InMemory;

impl Fixture for InFile {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open_with(&self, options: StoreOptions) -> Arc<dyn Store> {
        let url = format!("sqlite://{}/made/for/it/antiphon.db", self.0.path().display()).parse().unwrap();
        antiphon_store::open(&url, options).await.unwrap()
    }

    fn survives(&self) -> bool {
        true
    }
}

impl Fixture for InMemory {
    fn new() -> Self {
        Self
    }

    async fn open_with(&self, options: StoreOptions) -> Arc<dyn Store> {
        antiphon_store::open(&"sqlite::memory:".parse().unwrap(), options).await.unwrap()
    }

    fn survives(&self) -> bool {
        false
    }
}

/// A database of its own on the server that all tests share.
pub(crate) struct InPostgres(OnceCell<SharedDatabase>);

impl InPostgres {
    pub(crate) async fn url(&self) -> &str {
        self.0.get_or_init(SharedDatabase::create).await.url()
    }
}

impl Fixture for InPostgres {
    fn new() -> Self {
        Self(OnceCell::new())
    }

    async fn open_with(&self, options: StoreOptions) -> Arc<dyn Store> {
        antiphon_store::open(&self.url().await.parse().unwrap(), options).await.unwrap()
    }

    fn survives(&self) -> bool {
        true
    }
}

/// The same behind PgBouncer, which may give each transaction another connection.
pub(crate) struct BehindPooler(OnceCell<SharedDatabase>);

impl Fixture for BehindPooler {
    fn new() -> Self {
        Self(OnceCell::new())
    }

    async fn open_with(&self, options: StoreOptions) -> Arc<dyn Store> {
        let database = self.0.get_or_init(SharedDatabase::create_pooled).await;
        antiphon_store::open(&database.url().parse().unwrap(), options).await.unwrap()
    }

    fn survives(&self) -> bool {
        true
    }
}

pub(crate) const NOW: Timestamp = Timestamp::from_unix_ms(1_795_000_000_000);

pub(crate) fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

/// An audit entry of this time.
pub(crate) fn entry(at: Timestamp) -> AuditEntry {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&SERIAL.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    AuditEntry::new(at, &random, "a test", "tested", "it").detail(&r#"{"why":"ü"}"#)
}

/// The newest audit entries.
pub(crate) fn newest(max_rows: u32) -> AuditQuery {
    AuditQuery { max_rows, ..AuditQuery::default() }
}

/// A key with this secret.
pub(crate) fn key(name: &str, secret: u8) -> StoredKey {
    StoredKey {
        id: KeyId::mint(NOW.unix_ms().unsigned_abs(), &[secret; 10]),
        name: name.into(),
        project: project("p"),
        hash: SecretHash([secret; 32]),
        prefix: "apn-01".into(),
        models: r#"["gpt-*"]"#.into(),
        limits: "{}".into(),
        created_at: NOW,
        expires_at: Some(after(60)),
        revoked_at: None,
        last_used_at: None,
        previous: None,
    }
}

pub(crate) fn project(name: &str) -> ProjectId {
    ProjectId::new(name)
}

/// The id of the n-th response of a test.
pub(crate) fn id(n: u64) -> ResponseId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    ResponseId::mint(NOW.unix_ms().unsigned_abs() + n, &random)
}

/// A turn that continues another; the items hold its number.
pub(crate) fn turn(n: u64, parent: Option<(u64, u32)>) -> StoredTurn {
    StoredTurn {
        id: id(n),
        parent: parent.map(|(n, _)| id(n)),
        depth: parent.map_or(1, |(_, depth)| depth + 1),
        status: Status::Completed,
        account: "a".into(),
        boundary: "b".into(),
        upstream_id: Some(format!("resp_up{n}")),
        model: "m".into(),
        expires_at: None,
        input: format!(r#"[{{"role":"user","content":"{n}"}}]"#).into(),
        referenced: Vec::new(),
        output: format!(r#"[{{"id":"msg_{n}","type":"message","n":{n}}}]"#).into(),
        deletes: None,
    }
}

/// A record of a turn, with the items that have an id.
pub(crate) fn record_of(project: &str, turn: StoredTurn) -> Record {
    let items =
        |array: &Bytes| json::elements(array).map(|range| array.slice(range.unwrap())).collect::<Vec<_>>();
    let all = [items(&turn.input), items(&turn.output)].concat();
    let items: Vec<(ItemId, u32)> =
        (0..).zip(&all).filter_map(|(n, item)| Some((item::id(item)?, n))).collect();
    let log = log_row(project, turn.id, NOW);
    let body = Bytes::from(format!(r#"{{"id":"{}","output":[]}}"#, turn.id));
    Record {
        project: ProjectId::new(project),
        response: StoredResponse { turn, created_at: NOW, body },
        items,
        log,
        settlement: None,
        append: None,
        needs_parent: false,
    }
}

/// A record of a turn in project `p`.
pub(crate) fn record(n: u64, parent: Option<(u64, u32)>) -> Record {
    record_of("p", turn(n, parent))
}

pub(crate) fn log_row(project: &str, response: ResponseId, at: Timestamp) -> LogRow {
    LogRow {
        at,
        project: ProjectId::new(project),
        response,
        key: Some("k".into()),
        account: Some("a".into()),
        model: "m".into(),
        transport: "sse".into(),
        outcome: "completed".into(),
        http_status: 200,
        code: None,
        depth: 1,
        attempts: 2,
        input_tokens: 11,
        cached_tokens: 7,
        output_tokens: 5,
        reasoning_tokens: u64::from(u32::MAX) + 1,
        cost_nano_usd: Some(1_234),
        is_estimated: false,
        duration: Duration::from_micros(1_500_250),
        first_event: None,
        sent: None,
        attempt_log: None,
        reasoning: None,
    }
}

/// Records turns `first..first + len`, each continuing the one before; the first continues `parent`. Writes them
/// concurrently, like a busy gateway.
pub(crate) async fn record_chain(store: &Arc<dyn Store>, first: u64, len: u64, parent: Option<(u64, u32)>) {
    let depth = parent.map_or(0, |(_, depth)| depth);
    let turns = (0..len).map(|n| match n {
        0 => record(first, parent),
        n => record(first + n, Some((first + n - 1, depth + u32::try_from(n).unwrap()))),
    });
    record_all(store, turns.collect()).await;
}

pub(crate) async fn record_all(store: &Arc<dyn Store>, records: Vec<Record>) {
    let mut tasks = tokio::task::JoinSet::new();
    for record in records {
        let store = Arc::clone(store);
        tasks.spawn(async move { store.record(record).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
}

/// Appends rows, which nobody waits for, and waits until they are in the log: of several writers any may have taken them.
pub(crate) async fn append_all(store: &Arc<dyn Store>, rows: impl IntoIterator<Item = LogRow>) {
    let mut expected = store.list_log(MAX_ROWS).await.unwrap().len();
    for row in rows {
        store.append_log(row);
        expected += 1;
    }
    let written = async || store.list_log(MAX_ROWS).await.unwrap().len() == expected;
    eventually("the rows are in the log", written).await;
}

/// The whole chain that ends with the n-th response, whether or not that is visible.
pub(crate) fn whole(n: u64) -> ChainQuery {
    ChainQuery { from: id(n), visible_at: None, max_turns: u32::MAX }
}

pub(crate) fn numbers(turns: &[StoredTurn], of: impl IntoIterator<Item = u64>) -> bool {
    turns.iter().map(|turn| turn.id).eq(of.into_iter().map(id))
}
