//! An upstream whose replies are scripted, and that rejects what the real API rejects.
//!
//! A reply comes from the first of these: a queued script; directives, which are words in the newest user text and work
//! from any client; [`Simulator::always`]; the default text of [`Options`]. The JSON has the form of the recordings in
//! `fixtures/`.
//!
//! | word | reply |
//! | --- | --- |
//! | `SAY{text}` | this text |
//! | `ECHO` | the JSON of `input` as received |
//! | `LONG{n}` | a text of n characters |
//! | `TOOLCALL`, `TOOLCALL{json}` | a call of an offered function; a text once its output is sent |
//! | `REASON` | a reasoning item first |
//! | `ERROR{status,code}` | an HTTP error |
//! | `FAIL`, `INCOMPLETE` | ends with `response.failed`, `response.incomplete` |
//! | `DELAY{ms}` | waits before the headers |
//! | `CUT{n}` | cuts the connection after n events |
//! | `CLOSE{n,code}` | closes the socket after n events with a close frame |
//!
//! Chat completions and embeddings take the same scripts and words: texts and calls become the message of a completion.
//!
//! The same scripts and words work over a socket (a GET of …/responses with an upgrade). Its turns use the same queue and
//! are recorded among the same requests, with these differences: an HTTP reply becomes an error event with its status and
//! headers; a cut or dropped connection is a TCP reset; a stream without a terminal event ends with close code 1000; each
//! event is one message, whatever the script says about writes. A warm-up (`generate: false`) uses no script. The newest
//! response of each lane can be continued on its socket, stored or not, even if the simulator stores nothing.
//!
//! With [`Options::background`], `background: true` runs a response without its client. A cut ends the stream of its creator only.

mod background;
mod body;
mod chat;
mod chat_server;
mod clock;
mod compaction;
mod delivery;
mod directive;
mod event;
mod exchange;
mod gate;
mod glance;
mod headers;
mod item;
mod json;
mod memory;
mod mint;
mod options;
mod prepared;
mod received;
mod refusal;
mod reply;
mod request;
mod script;
mod seal;
mod server;
mod socket;
mod stamp;
mod strict;

pub use chat_server::ChatServer;
pub use gate::Gate;
pub use options::Options;
pub use received::{Counts, Received};
pub use script::{Close, Script};
pub use socket::{ReceivedSocket, SocketEnd};

use exchange::Shared;
use received::lock;
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longer than anything that a test waits for takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running upstream. Dropping it stops it and aborts its connections.
pub struct Simulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl Simulator {
    /// Serves on a listener. Must be called in a Tokio runtime.
    pub fn start(listener: TcpListener, options: Options) -> Self {
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared::new(options));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server::serve(listener, Arc::clone(&shared), stop.clone()));
        Self { address, shared, stop, serving: Some(serving) }
    }

    /// Serves on a free port of the loopback interface.
    pub async fn bind(options: Options) -> io::Result<Self> {
        Ok(Self::start(TcpListener::bind("127.0.0.1:0").await?, options))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL, including `/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Queues the reply to a turn. Queued replies are used once, in order, before directives and the default.
    pub fn script(&self, script: Script) -> &Self {
        lock(&self.shared.scripts).queue.push_back(script);
        self
    }

    /// Sets the reply to all turns without a queued script or a directive.
    pub fn always(&self, script: Script) -> &Self {
        lock(&self.shared.scripts).always = Some(script);
        self
    }

    /// Queues a script for a handshake. A script of an HTTP reply refuses it with that reply. Any other accepts it, with the
    /// script's headers and delays; `close_after(0, …)` and `then_close` apply to the socket.
    pub fn handshake(&self, script: Script) -> &Self {
        lock(&self.shared.scripts).handshakes.push_back(script);
        self
    }

    /// Sets the script of all handshakes without a queued one.
    pub fn always_handshake(&self, script: Script) -> &Self {
        lock(&self.shared.scripts).every_handshake = Some(script);
        self
    }

    /// Forgets all responses that were created in the background.
    pub fn forget_background(&self) {
        self.shared.background.forget();
    }

    /// From now on, responses that were created in the background can only be polled.
    pub fn refuse_resuming(&self) {
        self.shared.background.refuse_streams();
    }

    /// Refuses every credential from now on, or takes them again: also for the list of models, whatever scripts say.
    pub fn revoke_credentials(&self, is_revoked: bool) {
        self.shared.headers.is_revoked.store(is_revoked, Ordering::Relaxed);
    }

    /// Takes `…/responses` away, or brings it back.
    pub fn serve_responses(&self, is_served: bool) {
        self.shared.responses.store(is_served, Ordering::Relaxed);
    }

    /// Forgets all responses that it has stored.
    pub fn forget(&self) {
        self.shared.memory.clear();
    }

    /// Closes all sockets that are open now, even during turns.
    pub fn close_sockets(&self, close: Close) {
        self.shared.closing.send_replace(Some(close));
    }

    /// The newest 1,000 turns (POST …/responses, …/responses/compact, …/responses/input_tokens, …/chat/completions and
    /// …/embeddings, and the turns of sockets), including rejected ones, oldest first.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.ledger.turns()
    }

    /// The newest turn.
    pub fn last_request(&self) -> Option<Received> {
        self.requests().pop()
    }

    /// The newest 1,000 requests that were not turns.
    pub fn other_requests(&self) -> Vec<Received> {
        self.shared.ledger.others()
    }

    /// The newest 1,000 handshakes and their sockets, including refused ones, oldest first.
    pub fn sockets(&self) -> Vec<ReceivedSocket> {
        self.shared.ledger.sockets()
    }

    /// The newest handshake.
    pub fn last_socket(&self) -> Option<ReceivedSocket> {
        self.sockets().pop()
    }

    /// Encrypted content that this simulator can read, for items that a test writes itself.
    pub fn encrypted_content(&self) -> String {
        self.shared.encrypted_content()
    }

    pub fn counts(&self) -> Counts {
        self.shared.ledger.counts()
    }

    pub fn in_flight(&self) -> u64 {
        self.counts().in_flight
    }

    /// Turns whose client disconnected before the end.
    pub fn aborted(&self) -> u64 {
        self.counts().aborted
    }

    /// Waits until the condition holds. It is checked whenever a request arrives or a turn ends.
    ///
    /// # Panics
    ///
    /// If that takes too long, and names the caller.
    #[track_caller]
    pub fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            let mut counts = self.shared.ledger.subscribe();
            let waiting = async {
                while !condition(self) {
                    counts.changed().await.expect("the simulator keeps the sender alive");
                }
            };
            if timeout(PATIENCE, waiting).await.is_err() {
                panic!(
                    "{caller}: what is awaited of the upstream did not happen within {PATIENCE:?}: {:?}",
                    self.counts()
                );
            }
        }
    }

    /// Stops listening, aborts all connections and waits until that is done.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            drop(serving.await);
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}
