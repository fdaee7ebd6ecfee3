//! The reservation of a running turn.

use std::sync::Arc;

use antiphon_protocol::id::ResponseId;
use antiphon_store::{LogRow, Settlement, Spent, Store};

use super::{Estimate, Rates};
use antiphon_runtime::GaugeGuard;

/// A reservation in the store. It is settled once; dropped without being settled, it is released.
pub struct HeldReservation {
    id: ResponseId,
    store: Arc<dyn Store>,
    /// What is left of the client's per-minute limits.
    pub rates: Rates,
    pub estimate: Estimate,
    is_settled: bool,
    _gauge: GaugeGuard,
}

// === impl HeldReservation ===

impl HeldReservation {
    pub(super) fn new(
        id: ResponseId,
        store: Arc<dyn Store>,
        rates: Rates,
        estimate: Estimate,
        gauge: GaugeGuard,
    ) -> Self {
        Self { id, store, rates, estimate, is_settled: false, _gauge: gauge }
    }

    /// The settlement, for a transaction that writes it along with the response. Settling twice does no harm.
    pub fn settlement(&self, spent: Spent) -> Settlement {
        Settlement { id: self.id, spent }
    }

    /// Settles it, with the row in the request log that a turn has.
    pub fn settle(mut self, spent: Spent, row: Option<LogRow>) {
        self.is_settled = true;
        self.store.settle(self.settlement(spent), row);
    }

    /// Notes that another write settles it.
    pub fn mark_settled(mut self) {
        self.is_settled = true;
    }
}

impl Drop for HeldReservation {
    fn drop(&mut self) {
        if !self.is_settled {
            self.store.settle(Settlement::release(self.id), None);
        }
    }
}
