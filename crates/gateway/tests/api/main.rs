//! The gateway through its front door: the real app on a real socket, a real SQLite file, the simulated upstream.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod administering;
mod auditing;
mod auth;
mod background;
mod background_native;
mod background_replicas;
mod blame;
mod bodies;
mod boundaries;
mod bounds;
mod ceiling;
mod chains;
mod chat;
mod closing;
mod compacting;
mod connections;
mod conversations;
mod conversing;
mod creating;
mod doors;
mod failed;
mod failing;
mod failover;
mod including;
mod isolation;
mod keys;
mod leaving;
mod limits;
mod operating;
mod overview;
mod passing;
mod readiness;
mod reading;
mod recorded;
mod replaying;
mod replicas;
mod resuming;
mod settling;
mod socket_faults;
mod sockets;
mod stalling;
mod states;
mod streaming;
mod tokens;
mod trust;
mod uploading;
mod upstream_sockets;
mod upstreams;
mod usage;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Gateway, Setup};

/// A gateway with a strict upstream that stores nothing.
async fn gateway() -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    (upstream, gateway)
}

async fn simulator() -> Simulator {
    Simulator::bind(Options::default()).await.expect("a free port")
}
