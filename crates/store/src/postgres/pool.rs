//! Connections for reading, or those for writing. Each query, and each transaction, has one for itself until the reply is complete.
//!
//! A pooler gives a server's connection to another client between two transactions. Some, such as PgBouncer 1.18, do it even if the
//! first half of the next query is on it by then: the two clients get each other's replies.

use std::ops::Deref;
use std::sync::Arc;

use antiphon_protocol::id::ProjectId;
use antiphon_runtime::{FairPermit, FairSemaphore};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::MutexGuard;

use super::connect::ConnectError;
use super::error::QueryError;
use super::link::{ConnectContext, Link, Session};

/// For whom a connection is used: a project, or the gateway itself.
type Caller = Option<ProjectId>;

pub(super) struct Pool {
    links: Vec<Link>,
    /// Whoever waits gets the first connection that is free.
    permits: Arc<FairSemaphore<Caller>>,
}

/// A connection that nobody else uses.
pub(super) struct Held<'a> {
    session: Arc<Session>,
    _exclusive: MutexGuard<'a, ()>,
    _permit: FairPermit<Caller>,
}

// === impl Held ===

impl Deref for Held<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl<'a> Held<'a> {
    fn new(session: Arc<Session>, exclusive: MutexGuard<'a, ()>, permit: FairPermit<Caller>) -> Self {
        Self { session, _exclusive: exclusive, _permit: permit }
    }
}

// === impl Pool ===

impl Pool {
    /// Starts to connect. `share` is how many of the connections one caller may hold.
    pub(super) fn start(context: &Arc<ConnectContext>, connections: u32, share: u32) -> Self {
        let links: Vec<Link> = (0..connections.max(1)).map(|_| Link::start(Arc::clone(context))).collect();
        Self { permits: Arc::new(FairSemaphore::new(links.len(), share as usize)), links }
    }

    /// Waits for the first attempts to end. Fails only if an operator has to act.
    pub(super) async fn settled(&self) -> Result<(), ConnectError> {
        try_join_all(self.links.iter().map(Link::settled)).await.map(drop)
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn is_up(&self) -> bool {
        self.links.iter().any(Link::is_up)
    }

    /// A connection, for a project or the gateway itself; if it can be, this one. Waits if all are in use.
    pub(super) async fn acquire(
        &self,
        project: Option<&ProjectId>,
        preferred: usize,
    ) -> Result<Held<'_>, QueryError> {
        if !self.is_up() {
            return Err(self.down(preferred));
        }
        let permit = self.permits.acquire(&project.cloned()).await;
        let (before, after) = self.links.split_at(preferred);
        loop {
            let (mut unanswered, mut in_use) = (None, None);
            for link in after.iter().chain(before).filter(|link| link.is_up()) {
                let Some(exclusive) = link.try_lock() else {
                    in_use.get_or_insert(link);
                    continue;
                };
                match link.session() {
                    Ok(session) if session.is_answered() => return Ok(Held::new(session, exclusive, permit)),
                    // A query that its caller has given up may still run.
                    Ok(session) => unanswered = unanswered.or(Some((session, exclusive))),
                    Err(_) => {}
                }
            }
            if let Some((session, exclusive)) = unanswered {
                return Ok(Held::new(session, exclusive, permit));
            }
            // Fewer connections than permits are up.
            let Some(link) = in_use else { return Err(self.down(preferred)) };
            let exclusive = link.lock().await;
            // If it has been lost meanwhile, another may be up.
            if let Ok(session) = link.session() {
                return Ok(Held::new(session, exclusive, permit));
            }
        }
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

    use super::super::connect::Connector;
    use super::super::schema::Schema;
    use super::*;
    use crate::{Migrate, StoreUrl};

    #[tokio::test]
    async fn a_caller_whose_connection_is_lost_while_it_waits_gets_another() {
        let server = Postgres::shared();
        let name = "pool_losing";
        let StoreUrl::Postgres(target) = server.create_database(name).await.parse().unwrap() else {
            unreachable!()
        };
        let connector = || Connector::new(&target).unwrap();
        let context = Arc::new(ConnectContext::new(connector(), Schema::new(connector(), Migrate::Auto)));
        let pool = Arc::new(Pool::start(&context, 3, 3));
        pool.settled().await.unwrap();
        let mut held = Vec::new();
        for n in 0..3 {
            held.push(pool.acquire(None, n).await.unwrap());
        }
        // Nothing that is lost can be opened again.
        server.execute("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        let lose = async |n: usize, session: &Session| {
            let process = session.client().query_typed_one("SELECT pg_backend_pid()", &[]).await.unwrap();
            let process: i32 = process.get(0);
            server.execute("postgres", &format!("SELECT pg_terminate_backend({process})")).await;
            eventually("the connection is lost", async || !pool.links[n].is_up()).await;
        };
        lose(2, &held.pop().unwrap()).await;
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.acquire(None, 0).await.map(|held| held.is_answered()) }
        });
        eventually("it waits", async || pool.permits.free() == 0).await;
        let (second, first) = (held.pop().unwrap(), held.pop().unwrap());
        lose(0, &first).await;
        drop(first);
        drop(second);
        assert!(waiting.await.unwrap().is_ok());
    }
}
