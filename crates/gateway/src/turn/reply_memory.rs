//! Memory for what a turn keeps of its reply until it has ended. It is of the same share as that of the request.

use std::time::{Duration, Instant};

use antiphon_runtime::offload::is_short;

use super::{Failure, Turn};
use crate::body_memory::Reservation;

/// How long a turn waits for memory: its upstream waits as well.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Turn {
    /// Waits until the reservation covers so many bytes of the reply.
    pub(super) async fn reserve_for_reply(
        &self,
        memory: &mut Reservation,
        bytes: usize,
    ) -> Result<(), Failure> {
        if self.try_reserve_for_reply(memory, bytes) {
            return Ok(());
        }
        let missing = self.missing_for_reply(memory, bytes);
        let mut patience = TIMEOUT.min(self.deadline.saturating_duration_since(Instant::now()));
        let growing = self.cancellation.or_cancelled(memory.grow(missing, &mut patience));
        growing.await.map_err(|_| Failure::ClientGone)?.map_err(Failure::Overloaded)
    }

    /// As [`reserve_for_reply`](Self::reserve_for_reply), if nothing has to be waited for.
    pub(super) fn try_reserve_for_reply(&self, memory: &mut Reservation, bytes: usize) -> bool {
        let missing = self.missing_for_reply(memory, bytes);
        missing == 0 || memory.try_grow(missing)
    }

    /// A short reply takes no memory. Any other takes twice its size, as it is copied at the end, but at most half of what its
    /// tenant can have, and no more than the request has left.
    fn missing_for_reply(&self, memory: &Reservation, bytes: usize) -> usize {
        if is_short(bytes) {
            return 0;
        }
        let max_bytes = memory.max_bytes();
        let room = (max_bytes / 2).min(max_bytes.saturating_sub(self.memory.bytes()));
        bytes.saturating_mul(2).min(room).saturating_sub(memory.bytes())
    }
}
