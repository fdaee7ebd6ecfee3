//! What a turn holds of its limits.

use std::sync::Arc;

use antiphon_protocol::id::ResponseId;
use antiphon_store::{LogRow, Settlement, Spent, Store};

use super::{Estimate, Rates};
use antiphon_runtime::GaugeGuard;

/// A reservation that stands. Settled or dropped, it is given back, once.
pub struct Held {
    id: ResponseId,
    store: Arc<dyn Store>,
    /// What is left to the client.
    pub rates: Rates,
    pub estimate: Estimate,
    is_over: bool,
    _counted: GaugeGuard,
}

// === impl Held ===

impl Held {
    pub(super) fn new(
        id: ResponseId,
        store: Arc<dyn Store>,
        rates: Rates,
        estimate: Estimate,
        counted: GaugeGuard,
    ) -> Self {
        Self { id, store, rates, estimate, is_over: false, _counted: counted }
    }

    /// What gives it back, for a write that settles it with something else. Doing so twice does no harm.
    pub fn settlement(&self, spent: Spent) -> Settlement {
        Settlement { id: self.id, spent }
    }

    /// Settles it with the turn's row in the request log.
    pub fn settle(mut self, spent: Spent, row: LogRow) {
        self.is_over = true;
        self.store.settle(self.settlement(spent), Some(row));
    }

    /// It was settled with something else.
    pub fn settled(mut self) {
        self.is_over = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_over {
            self.store.settle(Settlement::release(self.id), None);
        }
    }
}
