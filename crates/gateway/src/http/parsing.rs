//! Parses requests without delaying the other turns of a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use antiphon_protocol::request::Wanted;
use antiphon_runtime::offload::{is_short, offload};

use super::error::RequestError;
use crate::body_memory::Reservation;

/// Parses a text of this size. Its memory stays reserved until parsing has ended. When the client leaves and drops the
/// future, the parsing of a long text stops.
pub async fn parse<T: Send + 'static>(
    size_bytes: usize,
    memory: Reservation,
    parse: impl FnOnce(Wanted<'_>) -> T + Send + 'static,
) -> Result<(T, Reservation), RequestError> {
    if is_short(size_bytes) {
        return Ok((parse(&|| true), memory));
    }
    let is_wanted = Arc::new(AtomicBool::new(true));
    let _stop = StopOnDrop(Arc::clone(&is_wanted));
    let parsing = offload(move || (parse(&|| is_wanted.load(Ordering::Relaxed)), memory));
    parsing.await.map_err(|_| RequestError::Internal)
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::body_memory::{BodyMemory, Tenant};

    #[tokio::test]
    async fn parsing_stops_and_releases_its_memory_when_the_client_leaves() {
        let memory = BodyMemory::new(1, 1);
        let mut reservation = Reservation::empty(&memory.share(Tenant::Operators));
        assert!(reservation.try_grow(1));
        let forever = |wanted: Wanted<'_>| while wanted() {};
        let mut parsing = Box::pin(parse(1 << 20, reservation, forever));
        assert!(parsing.as_mut().now_or_never().is_none());
        assert_eq!(memory.used_bytes(), 1);
        drop(parsing);
        let mut next = Reservation::empty(&memory.share(Tenant::Operators));
        next.grow(1, &mut Duration::from_secs(20)).await.unwrap();
    }
}
