//! One connection that a task keeps open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedMutexGuard, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{CancelToken, Client};

use super::connect::{ConnectError, Opened};
use super::context::{ConnectContext, Purpose, backoff, losses_after};
use super::error::QueryError;

/// How long to wait for the server to take a cancellation, or the goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that a task opens, and reopens when it is lost.
pub(super) struct Link {
    state: watch::Receiver<State>,
    /// The task ends when this is true, or dropped.
    closing: watch::Sender<bool>,
    usage: Usage,
}

#[derive(Clone)]
enum State {
    /// The first attempt to connect is not over.
    New,
    Up(Arc<Session>),
    Down(ConnectError),
    Closed,
}

/// Who uses the connection: one at a time.
#[derive(Clone)]
struct Usage {
    exclusive: Arc<Mutex<()>>,
    /// Notified when the connection is free, comes up, or goes down.
    changed: Arc<Notify>,
}

/// The right to use a connection. On drop it is free first, and then says so.
pub(super) struct Exclusive {
    _guard: OwnedMutexGuard<()>,
    _changed: NotifyOnDrop,
}

struct NotifyOnDrop(Arc<Notify>);

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

struct Keeper {
    context: Arc<ConnectContext>,
    purpose: Purpose,
    state: watch::Sender<State>,
    closing: watch::Receiver<bool>,
    usage: Usage,
}

// === impl Link ===

impl Link {
    /// Starts to connect. The connection is available once the schema is up to date. `changed` is notified when it is free, comes
    /// up, or goes down.
    pub(super) fn start(context: Arc<ConnectContext>, purpose: Purpose, changed: Arc<Notify>) -> Self {
        let (sender, state) = watch::channel(State::New);
        let (closing, is_closing) = watch::channel(false);
        let usage = Usage { exclusive: Arc::default(), changed };
        context.note_wanted(purpose);
        let keeper = Keeper { context, purpose, state: sender, closing: is_closing, usage: usage.clone() };
        tokio::spawn(keeper.run());
        Self { state, closing, usage }
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

    /// Reserves the connection, if it is free.
    pub(super) fn try_lock(&self) -> Option<Exclusive> {
        let guard = Arc::clone(&self.usage.exclusive).try_lock_owned().ok()?;
        Some(self.usage.exclusive(guard))
    }

    /// Ends the session with the server, and the task.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        // An error means that the task has ended.
        let _ = self.state.clone().wait_for(|_| false).await;
    }
}

// === impl Usage ===

impl Usage {
    async fn lock(&self) -> Exclusive {
        self.exclusive(Arc::clone(&self.exclusive).lock_owned().await)
    }

    fn exclusive(&self, guard: OwnedMutexGuard<()>) -> Exclusive {
        Exclusive { _guard: guard, _changed: NotifyOnDrop(Arc::clone(&self.changed)) }
    }
}

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
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

    /// Whether a reply may still come that nobody waits for.
    pub(super) fn is_busy(&self) -> bool {
        let is_given_up = self.give_up.is_stuck.load(Ordering::Relaxed) || self.client.is_closed();
        !self.is_answered() && !is_given_up
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

    /// Waits for the rest of a reply. Gives the connection up if it does not come in time.
    pub(super) async fn finish(&self, limit: Duration) {
        if self.run(limit, async { Ok(()) }).await.is_err() {
            self.give_up();
        }
    }

    /// Has the task replace the connection.
    pub(super) fn give_up(&self) {
        self.give_up.told.notify_one();
    }
}

// === impl Keeper ===

impl Keeper {
    async fn run(self) {
        let mut closing = self.closing.clone();
        // How many in a row were soon lost, or refused while others were open.
        let mut losses = 0_u32;
        while !*closing.borrow() {
            let opened = async {
                sleep(backoff(losses)).await;
                // A start waits for the first attempt.
                if !matches!(*self.state.borrow(), State::New) {
                    self.context.give_way(self.purpose).await;
                }
                self.context.open().await
            };
            let opened = tokio::select! {
                opened = opened => opened,
                () = closed(&mut closing) => break,
            };
            match opened {
                Ok(opened) => {
                    let since = Instant::now();
                    self.context.note_opened(self.purpose);
                    self.serve(opened, &mut closing).await;
                    losses = losses_after(losses, since.elapsed(), self.context.lacks(self.purpose));
                }
                Err(error) => {
                    losses = match self.context.note_failed(self.purpose, &error) {
                        true => 1,
                        false if self.context.has_open() => losses.saturating_add(1),
                        false => 0,
                    };
                    self.change(State::Down(error));
                }
            }
        }
        self.change(State::Closed);
    }

    /// Returns when the connection is lost, given up or closed.
    async fn serve(&self, opened: Opened, closing: &mut watch::Receiver<bool>) {
        let Opened { client, mut driver } = opened;
        let give_up =
            Arc::new(GiveUp { told: Notify::new(), cancel: client.cancel_token(), is_stuck: false.into() });
        let session = Session { client, is_answered: true.into(), give_up: Arc::clone(&give_up) };
        self.change(State::Up(Arc::new(session)));
        let down = |reason: &str| State::Down(ConnectError::Unavailable(reason.into()));
        tokio::select! {
            ended = &mut driver => {
                let reason = ended.map_or_else(|error| super::error::describe(&error), |()| "closed".into());
                tracing::warn!(reason, "a connection to the database was lost");
                self.context.note_closed(self.purpose);
                self.change(down("the connection was lost"));
            }
            () = give_up.told.notified() => {
                tracing::warn!("giving up a connection to the database");
                self.context.note_closed(self.purpose);
                self.change(down("the connection was given up"));
                if give_up.is_stuck.load(Ordering::Relaxed) {
                    let cancelled = timeout(GOODBYE_TIMEOUT, self.context.cancel(&give_up.cancel)).await;
                    if let Ok(Err(error)) = cancelled {
                        tracing::debug!(%error, "a stuck query could not be cancelled");
                    }
                }
            }
            exclusive = self.spared() => {
                let (own, other) = (self.purpose.name(), self.purpose.other().name());
                tracing::warn!("closing a connection to the database for {own}, as there is none for {other}");
                self.change(down("the connection made way for another"));
                drop(exclusive);
                let _ = timeout(GOODBYE_TIMEOUT, driver).await;
            }
            () = closed(closing) => {
                self.context.note_closed(self.purpose);
                self.change(State::Closed);
                // The driver says goodbye after the last reply.
                let _ = timeout(GOODBYE_TIMEOUT, driver).await;
            }
        }
    }

    /// Resolves when the other pool needs the place of this connection, and nobody uses it any more.
    async fn spared(&self) -> Exclusive {
        loop {
            self.context.asked(self.purpose).await;
            let exclusive = self.usage.lock().await;
            if self.context.spare(self.purpose) {
                return exclusive;
            }
        }
    }

    fn change(&self, state: State) {
        self.state.send_replace(state);
        self.usage.changed.notify_one();
    }
}

/// Also resolves when the link has been dropped.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|is_closing| *is_closing).await;
}
