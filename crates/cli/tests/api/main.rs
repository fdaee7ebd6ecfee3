//! The gateway through its front door: the real app on a real socket, a real SQLite file, the simulated upstream.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod administering;
mod auditing;
mod auth;
mod background;
mod background_conversations;
mod background_native;
mod background_queue;
mod background_reasoning;
mod background_replicas;
mod background_unanswered;
mod blame;
mod bodies;
mod boundaries;
mod bounds;
mod ceiling;
mod chains;
mod chat;
mod chat_chains;
mod chat_faults;
mod chat_replies;
mod chat_servers;
mod closing;
mod compacting;
mod connecting;
mod connections;
mod conversation_room;
mod conversations;
mod conversing;
mod conversing_together;
mod creating;
mod discovering;
mod doors;
mod error_events;
mod failed;
mod failing;
mod failover;
mod fairness;
mod http2;
mod including;
mod isolation;
mod items_by_id;
mod keys;
mod leaving;
mod limits;
mod listing;
mod naming;
mod odd_sockets;
mod odd_streams;
mod operating;
mod overview;
mod passing;
mod presets;
mod proxies;
mod readiness;
mod reading;
mod recorded;
mod reference;
mod replaying;
mod replicas;
mod replies;
mod resuming;
mod secrets;
mod settling;
mod signing_in;
mod signing_in_by_proxy;
mod signing_in_by_token;
mod socket_faults;
mod sockets;
mod stalling;
mod states;
mod streaming;
mod tls;
mod tokens;
mod traces;
mod trust;
mod unread;
mod uploading;
mod upstream_sockets;
mod upstreams;
mod usage;

use antiphon_simulator::upstream::{Options, Received, Simulator};
use antiphon_testkit::{Gateway, Setup, eventually};

/// A gateway with a strict upstream that stores nothing.
async fn gateway() -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    (upstream, gateway)
}

/// Waits until a gateway has listed this upstream's models, as it does when it starts: it has accepted the credential then.
async fn listed(upstream: &Simulator) {
    let is_list = |received: &Received| received.path.ends_with("/models");
    eventually("the models are listed", async || upstream.other_requests().iter().any(is_list)).await;
}

async fn simulator() -> Simulator {
    Simulator::bind(Options::default()).await.expect("a free port")
}
