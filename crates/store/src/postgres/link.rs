//! One connection that a task keeps open.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{CancelToken, Client};

use super::connect::{ConnectError, Connector, Opened};
use super::error::QueryError;
use super::schema::Schema;

/// Delays between attempts to connect. The first attempt has none, and each delay is twice the one before.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(10);
/// How long to wait for the server to take a cancellation, or the goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that a task opens, and reopens when it is lost.
pub(super) struct Link {
    state: watch::Receiver<State>,
    /// The task ends when this is true, or dropped.
    closing: watch::Sender<bool>,
    exclusive: Mutex<()>,
}

#[derive(Clone)]
enum State {
    /// The first attempt to connect is not over.
    New,
    Up(Arc<Session>),
    Down(ConnectError),
    Closed,
}

/// An open connection.
pub(super) struct Session {
    client: Client,
    /// Whether the reply to the latest query is complete. If it is not, that has failed, or its caller did not wait for it.
    is_answered: AtomicBool,
    give_up: Arc<GiveUp>,
}

/// Tells the task to replace the connection.
struct GiveUp {
    told: Notify,
    /// Cancels a query that does not end.
    cancel: CancelToken,
    is_stuck: AtomicBool,
}

/// What all connections of a store need to open.
pub(super) struct ConnectContext {
    connector: Connector,
    schema: Schema,
    /// How many attempts in a row have failed while no connection was open. Locked during an attempt: while the server is
    /// unreachable one connection tries for all, and once it succeeds the others follow at once.
    failures: Mutex<u32>,
    wanted: AtomicU64,
    open: AtomicU64,
    /// Whether the log says that not all connections can be opened.
    is_reported: AtomicBool,
}

struct Keeper {
    context: Arc<ConnectContext>,
    state: watch::Sender<State>,
    closing: watch::Receiver<bool>,
}

// === impl Link ===

impl Link {
    /// Starts to connect. The connection is available once the schema is up to date.
    pub(super) fn start(context: Arc<ConnectContext>) -> Self {
        let (sender, state) = watch::channel(State::New);
        let (closing, is_closing) = watch::channel(false);
        context.wanted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(Keeper { context, state: sender, closing: is_closing }.run());
        Self { state, closing, exclusive: Mutex::new(()) }
    }

    /// Waits for the first attempt to end. Fails only if an operator has to act.
    pub(super) async fn settled(&self) -> Result<(), ConnectError> {
        match self.state.clone().wait_for(|state| !matches!(state, State::New)).await.as_deref() {
            Ok(State::Down(error @ ConnectError::Unusable(_))) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    pub(super) fn session(&self) -> Result<Arc<Session>, QueryError> {
        match &*self.state.borrow() {
            State::Up(session) => Ok(Arc::clone(session)),
            State::Down(error) => Err(QueryError::Down(error.to_string())),
            State::New => Err(QueryError::Down("not connected to the database yet".into())),
            State::Closed => Err(QueryError::Down("it has been closed".into())),
        }
    }

    /// Reserves the connection.
    pub(super) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.exclusive.lock().await
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, ()>> {
        self.exclusive.try_lock().ok()
    }

    /// Ends the session with the server, and the task.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        // An error means that the task has ended.
        let _ = self.state.clone().wait_for(|_| false).await;
    }
}

// === impl Session ===

impl Session {
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    /// Runs a query or a transaction. Gives the connection up if that does not end in time, or if it is broken.
    pub(super) async fn run<T>(
        &self,
        limit: Duration,
        queries: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, QueryError> {
        let answered = async {
            if !self.is_answered.swap(false, Ordering::Relaxed) {
                self.client.batch_execute("").await?;
            }
            let result = queries.await?;
            self.is_answered.store(true, Ordering::Relaxed);
            Ok(result)
        };
        let Ok(result) = timeout(limit, answered).await else {
            self.give_up.is_stuck.store(true, Ordering::Relaxed);
            self.give_up();
            return Err(QueryError::Deadline(limit));
        };
        result.map_err(|error: tokio_postgres::Error| {
            let error = QueryError::from(error);
            if matches!(error, QueryError::Lost(_)) {
                self.give_up();
            }
            error
        })
    }

    /// Has the task replace the connection.
    pub(super) fn give_up(&self) {
        self.give_up.told.notify_one();
    }
}

// === impl ConnectContext ===

impl ConnectContext {
    pub(super) fn new(connector: Connector, schema: Schema) -> Self {
        Self {
            connector,
            schema,
            failures: Mutex::new(0),
            wanted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            is_reported: AtomicBool::new(false),
        }
    }

    /// How many connections are not open.
    pub(super) fn missing(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed).saturating_sub(self.open.load(Ordering::Relaxed))
    }

    fn has_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    fn note_opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.missing() == 0 && self.is_reported.swap(false, Ordering::Relaxed) {
            tracing::info!("all connections to the database are open again");
        }
    }

    fn note_closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Without any connection the store is unavailable, which is reported elsewhere. With some it works, so nobody would notice.
    fn note_failed(&self, error: &ConnectError) {
        let (wanted, open) = (self.wanted.load(Ordering::Relaxed), self.open.load(Ordering::Relaxed));
        if open > 0 && !self.is_reported.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, open, wanted, "not all connections to the database can be opened; trying again");
        } else {
            tracing::debug!(%error, "no connection to the database");
        }
    }

    /// Makes one attempt, after the delay that is due.
    async fn open(&self) -> Result<Opened, ConnectError> {
        let mut failures = self.failures.lock().await;
        sleep(backoff(*failures)).await;
        let opened = async {
            self.schema.bring_up_to_date().await?;
            self.connector.connect().await
        };
        let opened = opened.await;
        // A server that has others open refuses this one only, which does not delay those that are lost.
        *failures = if opened.is_ok() || self.has_open() { 0 } else { failures.saturating_add(1) };
        opened
    }
}

// === impl Keeper ===

impl Keeper {
    async fn run(mut self) {
        let mut closing = self.closing.clone();
        // How many in a row were soon lost, or refused while others were open.
        let mut losses = 0_u32;
        while !*closing.borrow() {
            let opened = async {
                sleep(backoff(losses)).await;
                self.context.open().await
            };
            let opened = tokio::select! {
                opened = opened => opened,
                () = closed(&mut closing) => break,
            };
            match opened {
                Ok(opened) => {
                    let since = Instant::now();
                    self.context.note_opened();
                    self.serve(opened).await;
                    self.context.note_closed();
                    losses = if since.elapsed() < MAX_DELAY { losses.saturating_add(1) } else { 0 };
                }
                Err(error) => {
                    self.context.note_failed(&error);
                    losses = if self.context.has_open() { losses.saturating_add(1) } else { 0 };
                    self.state.send_replace(State::Down(error));
                }
            }
        }
        self.state.send_replace(State::Closed);
    }

    /// Returns when the connection is lost, given up or closed.
    async fn serve(&mut self, opened: Opened) {
        let Opened { client, mut driver } = opened;
        let give_up =
            Arc::new(GiveUp { told: Notify::new(), cancel: client.cancel_token(), is_stuck: false.into() });
        let session = Session { client, is_answered: true.into(), give_up: Arc::clone(&give_up) };
        self.state.send_replace(State::Up(Arc::new(session)));
        let lost = |reason: &str| State::Down(ConnectError::Unavailable(reason.into()));
        tokio::select! {
            ended = &mut driver => {
                let reason = ended.map_or_else(|error| super::error::describe(&error), |()| "closed".into());
                tracing::warn!(reason, "a connection to the database was lost");
                self.state.send_replace(lost("the connection was lost"));
            }
            () = give_up.told.notified() => {
                tracing::warn!("giving up a connection to the database");
                self.state.send_replace(lost("the connection was given up"));
                if give_up.is_stuck.load(Ordering::Relaxed) {
                    let cancelled = timeout(GOODBYE_TIMEOUT, self.context.connector.cancel(&give_up.cancel)).await;
                    if let Ok(Err(error)) = cancelled {
                        tracing::debug!(%error, "a stuck query could not be cancelled");
                    }
                }
            }
            () = closed(&mut self.closing) => {
                self.state.send_replace(State::Closed);
                // The driver says goodbye after the last reply.
                let _ = timeout(GOODBYE_TIMEOUT, driver).await;
            }
        }
    }
}

/// Also resolves when the link has been dropped.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|is_closing| *is_closing).await;
}

/// Exponential, with jitter for replicas that have lost the same server.
fn backoff(failures: u32) -> Duration {
    jittered(failures, RandomState::new().hash_one(failures))
}

fn jittered(failures: u32, random: u64) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let delay = FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(MAX_DELAY);
    let half = delay / 2;
    half + half.mul_f64((random % 1024) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use antiphon_testkit::Postgres;

    use super::*;
    use crate::{Migrate, StoreUrl};

    #[tokio::test]
    async fn a_connection_that_is_refused_while_others_are_open_does_not_delay_them() {
        let server = Postgres::shared();
        let name = "link_refused";
        let StoreUrl::Postgres(target) = server.create_database(name).await.parse().unwrap() else {
            unreachable!()
        };
        let connector = || Connector::new(&target).unwrap();
        let context = Arc::new(ConnectContext::new(connector(), Schema::new(connector(), Migrate::Auto)));
        let link = Link::start(Arc::clone(&context));
        link.settled().await.unwrap();
        server.execute("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        assert!(context.open().await.is_err());
        assert_eq!(*context.failures.lock().await, 0);
        link.close().await;
        assert!(context.open().await.is_err());
        assert_eq!(*context.failures.lock().await, 1, "no connection is open");
    }

    #[test]
    fn delays_grow_up_to_a_bound_and_are_jittered() {
        assert_eq!(jittered(0, 7), Duration::ZERO);
        for (failures, longest) in [(1, 100), (2, 200), (3, 400), (7, 6_400), (8, 10_000), (u32::MAX, 10_000)]
        {
            let longest = Duration::from_millis(longest);
            let delays = [0, 300, 700, 1_023].map(|random| jittered(failures, random));
            assert!(delays.iter().all(|delay| (longest / 2..longest).contains(delay)), "{delays:?}");
            assert!(delays.is_sorted_by(|a, b| a < b));
        }
    }
}
