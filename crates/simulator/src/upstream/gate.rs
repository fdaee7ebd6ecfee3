//! Gates, which hold replies until a test opens them.

use std::sync::Arc;
use tokio::sync::watch;

/// Holds each reply of its script until it is opened.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    open: bool,
    arrived: usize,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Releases the waiting replies, and lets all later ones pass.
    pub fn open(&self) {
        self.state.send_modify(|state| state.open = true);
    }

    /// Waits until `count` replies have reached the gate.
    pub async fn arrived(&self, count: usize) {
        self.wait_for(|state| state.arrived >= count).await;
    }

    pub(super) async fn pass(self) {
        self.state.send_modify(|state| state.arrived += 1);
        self.wait_for(|state| state.open).await;
    }

    async fn wait_for(&self, condition: impl FnMut(&State) -> bool) {
        let mut states = self.state.subscribe();
        states.wait_for(condition).await.map(drop).expect("the gate itself keeps the sender alive");
    }
}
