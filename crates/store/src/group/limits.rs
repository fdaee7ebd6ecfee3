//! Reservations: nothing stays held for a caller that is gone.

use antiphon_protocol::id::ResponseId;

use super::log::LogRows;
use super::{Group, Operation, Outcome};
use crate::limits::Sweep;
use crate::{LogRow, Reservation, Reserved, Settlement, StoreError};

/// Guards a reservation until its outcome is known. If it fails, takes too long or is dropped, it is released here; if it is
/// written after that, the writer notices that the caller is gone and releases it again.
struct ReleaseOnDrop<'a> {
    log: &'a LogRows,
    id: Option<ResponseId>,
}

impl Group {
    pub(crate) async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        let mut guard = ReleaseOnDrop { log: &self.log, id: Some(reservation.id) };
        match self.write(Operation::Reserve(Box::new(reservation))).await? {
            Outcome::Reserved(reserved) => {
                guard.id = None;
                Ok(*reserved)
            }
            _ => Err(StoreError::closed()),
        }
    }

    /// Takes a settlement that nobody waits for.
    pub(crate) fn settle(&self, settlement: Settlement, row: Option<LogRow>) {
        self.log.push(match row {
            Some(row) => Operation::Log(Box::new(row), Some(settlement)),
            None => Operation::Settle(settlement),
        });
    }

    pub(crate) async fn sweep(&self, sweep: Sweep) -> Result<u64, StoreError> {
        match self.write(Operation::Sweep(sweep)).await? {
            Outcome::Swept(reservations) => Ok(reservations),
            _ => Ok(0),
        }
    }
}

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.log.push(Operation::Settle(Settlement::release(id)));
        }
    }
}
