//! Connections for reading, or those for writing. Each query, and each transaction, has one for itself until the reply is complete.
//!
//! A pooler gives a server's connection to another client between two transactions. Some, such as PgBouncer 1.18, do it even if the
//! first half of the next query is on it by then: the two clients get each other's replies.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::ProjectId;
use antiphon_runtime::{FairPermit, FairSemaphore};
use futures_util::future::{join_all, try_join_all};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify};
use tokio_postgres::Client;

use super::connect::ConnectError;
use super::context::{ConnectContext, Purpose};
use super::error::QueryError;
use super::link::{Exclusive, Link, Session};

/// For whom a connection is used: a project, or the gateway itself.
type Caller = Option<ProjectId>;

pub(super) struct Pool {
    links: Vec<Link>,
    permits: Arc<FairSemaphore<Caller>>,
    /// Fewer connections than permits may be up. Whoever has this gets the next one that is free or comes up.
    turn: Mutex<()>,
    /// Notified when a connection is free, comes up, or goes down.
    changed: Arc<Notify>,
    /// How long a query or a transaction may take.
    limit: Duration,
}

/// A connection that nobody else uses.
pub(super) struct Held {
    session: Arc<Session>,
    limit: Duration,
    /// `None` once it has been dropped.
    rights: Option<(Exclusive, FairPermit<Caller>)>,
}

// === impl Held ===

impl Held {
    pub(super) fn client(&self) -> &Client {
        self.session.client()
    }

    /// Runs a query or a transaction. Gives the connection up if that does not end in time, or if it is broken.
    pub(super) async fn run<T>(
        &self,
        queries: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, QueryError> {
        self.session.run(self.limit, queries).await
    }

    /// Has the connection replaced.
    pub(super) fn give_up(&self) {
        self.session.give_up();
    }
}

/// A caller that leaves before the reply is complete holds the connection, and its share of the pool, until it is.
impl Drop for Held {
    fn drop(&mut self) {
        if self.session.is_busy()
            && let Ok(runtime) = Handle::try_current()
        {
            let (session, limit, rights) = (Arc::clone(&self.session), self.limit, self.rights.take());
            runtime.spawn(async move {
                session.finish(limit).await;
                drop(rights);
            });
        }
    }
}

// === impl Pool ===

impl Pool {
    /// Starts to connect. `share` is how many of the connections one caller may hold, and `limit` how long a query or a transaction
    /// may take.
    pub(super) fn start(
        context: &Arc<ConnectContext>,
        purpose: Purpose,
        connections: u32,
        share: u32,
        limit: Duration,
    ) -> Self {
        let changed = Arc::<Notify>::default();
        let link = |_| Link::start(Arc::clone(context), purpose, Arc::clone(&changed));
        let links: Vec<Link> = (0..connections.max(1)).map(link).collect();
        let permits = Arc::new(FairSemaphore::new(links.len(), share as usize));
        Self { links, permits, turn: Mutex::new(()), changed, limit }
    }

    /// Waits for the first attempts to end. Fails only if an operator has to act.
    pub(super) async fn settled(&self) -> Result<(), ConnectError> {
        try_join_all(self.links.iter().map(Link::settled)).await.map(drop)
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) fn is_up(&self) -> bool {
        self.links.iter().any(Link::is_up)
    }

    /// A connection, for a project or the gateway itself; if it can be, this one. Waits if all are in use.
    pub(super) async fn acquire(
        &self,
        project: Option<&ProjectId>,
        preferred: usize,
    ) -> Result<Held, QueryError> {
        if !self.is_up() {
            return Err(self.down(preferred));
        }
        let permit = self.permits.acquire(&project.cloned()).await;
        let _turn = self.turn.lock().await;
        loop {
            if let Some((session, exclusive)) = self.free(preferred) {
                return Ok(Held { session, limit: self.limit, rights: Some((exclusive, permit)) });
            }
            if !self.is_up() {
                return Err(self.down(preferred));
            }
            self.changed.notified().await;
        }
    }

    /// A connection that nobody uses; if it can be, this one.
    fn free(&self, preferred: usize) -> Option<(Arc<Session>, Exclusive)> {
        let (before, after) = self.links.split_at(preferred);
        let usable = |link: &Link| link.session().ok().filter(|session| session.is_answered());
        after.iter().chain(before).find_map(|link| {
            // Only a usable one is locked: to release another would announce a change.
            usable(link)?;
            let exclusive = link.try_lock()?;
            Some((usable(link)?, exclusive))
        })
    }

    fn down(&self, link: usize) -> QueryError {
        let session = self.links[link].session();
        session.err().unwrap_or_else(|| QueryError::Down("it is reconnecting".into()))
    }

    pub(super) async fn close(&self) {
        join_all(self.links.iter().map(Link::close)).await;
    }
}

#[cfg(test)]
mod tests {
    use antiphon_testkit::{Postgres, eventually};
    use futures_util::FutureExt;

    use super::super::connect::Connector;
    use super::super::schema::Schema;
    use super::*;
    use crate::{Migrate, StoreUrl};

    const LIMIT: Duration = Duration::from_secs(180);

    fn context(url: &str) -> Arc<ConnectContext> {
        let StoreUrl::Postgres(target) = url.parse().unwrap() else { unreachable!() };
        let connector = || Connector::new(&target).unwrap();
        Arc::new(ConnectContext::new(connector(), Schema::new(connector(), Migrate::Auto)))
    }

    async fn pool(name: &str, connections: u32, share: u32) -> Arc<Pool> {
        let url = Postgres::shared().create_database(name).await;
        let pool = Pool::start(&context(&url), Purpose::Reading, connections, share, LIMIT);
        pool.settled().await.unwrap();
        Arc::new(pool)
    }

    /// Whether connections that are lost can be opened again.
    async fn allow(name: &str, word: &str) {
        let alter = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {word}");
        Postgres::shared().execute("postgres", &alter).await;
    }

    async fn lose(pool: &Pool, n: usize, held: &Held) {
        let process = held.client().query_typed_one("SELECT pg_backend_pid()", &[]).await.unwrap();
        let process: i32 = process.get(0);
        let terminate = format!("SELECT pg_terminate_backend({process})");
        Postgres::shared().execute("postgres", &terminate).await;
        eventually("the connection is lost", async || !pool.links[n].is_up()).await;
    }

    /// A caller that has its permit, and waits for a connection.
    async fn waiting(pool: &Arc<Pool>) -> tokio::task::JoinHandle<bool> {
        let pool = Arc::clone(pool);
        let free = pool.permits.free();
        let caller = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.acquire(None, 0).await.is_ok() }
        });
        eventually("it waits", async || pool.permits.free() < free).await;
        caller
    }

    #[tokio::test]
    async fn a_caller_whose_connection_is_lost_while_it_waits_gets_another() {
        let name = "pool_losing";
        let pool = pool(name, 3, 3).await;
        let mut held = Vec::new();
        for n in 0..3 {
            held.push(pool.acquire(None, n).await.unwrap());
        }
        allow(name, "false").await;
        lose(&pool, 2, &held.pop().unwrap()).await;
        let waiting = waiting(&pool).await;
        let (second, first) = (held.pop().unwrap(), held.pop().unwrap());
        lose(&pool, 0, &first).await;
        drop(first);
        drop(second);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn a_caller_that_waits_gets_whichever_connection_is_free_or_comes_up_first() {
        let name = "pool_first";
        let pool = pool(name, 3, 3).await;
        let _stuck = pool.acquire(None, 0).await.unwrap();
        let (second, third) = (pool.acquire(None, 1).await.unwrap(), pool.acquire(None, 2).await.unwrap());
        allow(name, "false").await;
        lose(&pool, 2, &third).await;
        drop(third);
        let caller = waiting(&pool).await;
        drop(second);
        assert!(caller.await.unwrap(), "the second is free");
        let _second = pool.acquire(None, 1).await.unwrap();
        let caller = waiting(&pool).await;
        allow(name, "true").await;
        assert!(caller.await.unwrap(), "the third is up again");
    }

    #[tokio::test]
    async fn a_query_whose_caller_has_left_counts_in_its_share_until_it_ends() {
        let name = "pool_leaving";
        let pool = pool(name, 2, 1).await;
        let (project, other) = (ProjectId::new("a"), ProjectId::new("b"));
        let left = pool.acquire(Some(&project), 0).await.unwrap();
        let query = left.client().query_typed("SELECT pg_sleep(600)", &[]);
        assert!(left.run(query).now_or_never().is_none());
        drop(left);
        assert!(pool.acquire(Some(&project), 0).now_or_never().is_none(), "its share is in use");
        assert!(pool.acquire(Some(&other), 0).await.is_ok());
        let cancel = format!(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE 'SELECT pg_sleep%'"
        );
        eventually("the query ends", async || {
            Postgres::shared().execute("postgres", &cancel).await;
            pool.permits.free() == 2
        })
        .await;
        let next = pool.acquire(Some(&project), 0).await.unwrap();
        next.run(next.client().query_typed("SELECT 1", &[])).await.unwrap();
    }

    #[tokio::test]
    async fn a_pool_that_has_all_connections_of_the_server_gives_one_up_for_the_other() {
        let (server, name) = (Postgres::shared(), "pool_sharing");
        let url = server.create_database(name).await;
        let prepare = format!(
            "CREATE ROLE {name} LOGIN CONNECTION LIMIT 3; ALTER DATABASE {name} OWNER TO {name}; GRANT ALL ON SCHEMA public TO {name}"
        );
        server.execute(name, &prepare).await;
        let context = context(&url.replace("//postgres@", &format!("//{name}@")));
        let readers = Pool::start(&context, Purpose::Reading, 3, 3, LIMIT);
        readers.settled().await.unwrap();
        let busy = readers.acquire(None, 0).await.unwrap();
        let writers = Pool::start(&context, Purpose::Writing, 2, 2, LIMIT);
        eventually("a writer is open", async || writers.is_up()).await;
        assert!(readers.is_up());
        busy.run(busy.client().query_typed("SELECT 1", &[])).await.unwrap();
        drop(busy);
        let terminate =
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'");
        for _ in 0..5 {
            server.execute("postgres", &terminate).await;
            eventually("both pools work", async || {
                for pool in [&readers, &writers] {
                    let Ok(held) = pool.acquire(None, 0).await else { return false };
                    if held.run(held.client().query_typed("SELECT 1", &[])).await.is_err() {
                        return false;
                    }
                }
                true
            })
            .await;
        }
    }
}
