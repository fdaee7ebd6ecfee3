//! Reservations: nothing stays held for a caller that does not hear of it.

use antiphon_protocol::id::ResponseId;

use super::log::LogRows;
use super::{Group, Operation, Outcome, closed};
use crate::{LogRow, Reservation, Reserved, Settlement, StoreError, Timestamp};

/// Until it is known what came of a reservation. What its caller does not hear of, as it failed, took too long or was dropped,
/// is given back; if it is written only later, the writer sees that nobody hears of it.
struct InDoubt<'a> {
    log: &'a LogRows,
    id: Option<ResponseId>,
}

impl Group {
    pub(crate) async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        let mut in_doubt = InDoubt { log: &self.log, id: Some(reservation.id) };
        match self.write(Operation::Reserve(Box::new(reservation))).await? {
            Outcome::Reserved(reserved) => {
                in_doubt.id = None;
                Ok(*reserved)
            }
            _ => Err(closed()),
        }
    }

    /// Takes a settlement that nobody waits for.
    pub(crate) fn settle(&self, settlement: Settlement, row: Option<LogRow>) {
        self.log.push(match row {
            Some(row) => Operation::Log(Box::new(row), Some(settlement)),
            None => Operation::Settle(settlement),
        });
    }

    pub(crate) async fn sweep(&self, now: Timestamp, max_rows: u32) -> Result<u64, StoreError> {
        match self.write(Operation::Sweep { now, max_rows }).await? {
            Outcome::Swept(reservations) => Ok(reservations),
            _ => Ok(0),
        }
    }
}

impl Drop for InDoubt<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.log.push(Operation::Settle(Settlement::release(id)));
        }
    }
}
