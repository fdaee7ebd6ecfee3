//! A database of one test in the [shared](Postgres::shared) cluster, removed after it: those of a whole run fill a disk.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use antiphon_store::StoreOptions;
use tokio::sync::OnceCell;

use super::Postgres;

/// Has the schema and no rows; copying it is faster than migrating each database.
const TEMPLATE: &str = "migrated";

/// Takes the names of databases whose tests have ended. Nobody waits while they are removed.
static ENDED: LazyLock<Sender<String>> = LazyLock::new(|| {
    let (names, ended) = channel();
    std::thread::spawn(move || remove(&ended));
    names
});

/// A database with the schema of the store, and no rows. It is removed soon after this is dropped, whoever is still
/// connected.
#[derive(Debug)]
pub struct SharedDatabase {
    url: String,
}

// === impl SharedDatabase ===

impl SharedDatabase {
    pub async fn create() -> Self {
        static DATABASES: AtomicU32 = AtomicU32::new(1);
        static MADE: OnceCell<()> = OnceCell::const_new();
        MADE.get_or_init(make_template).await;
        let name = format!("copy_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let shared = Postgres::shared();
        let sql = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY");
        shared.execute("postgres", &sql).await;
        Self { url: shared.url(&name) }
    }

    /// Behind PgBouncer in transaction mode.
    pub async fn create_pooled() -> Self {
        let mut database = Self::create().await;
        database.url = Postgres::pooled(&database.url);
        database
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for SharedDatabase {
    fn drop(&mut self) {
        let (_, name) = self.url.rsplit_once('/').expect("a URL ends with the name");
        // Without the thread, which has said why it ended, nothing but the disk fills.
        let _ = ENDED.send(name.to_owned());
    }
}

async fn make_template() {
    let url = Postgres::shared().create_database(TEMPLATE).await.parse().expect("a valid store URL");
    let store = antiphon_store::open(&url, StoreOptions::default()).await.expect("the store opens");
    store.close().await;
}

fn remove(ended: &Receiver<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for name in ended {
        let sql = format!("DROP DATABASE {name} WITH (FORCE)");
        runtime.block_on(Postgres::shared().execute("postgres", &sql));
    }
}
