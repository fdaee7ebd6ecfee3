//! Parsing what clients send, without keeping others waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use antiphon_protocol::request::Wanted;
use tokio::sync::OwnedSemaphorePermit;

use crate::turn::Failure;

/// A text larger than this is parsed on a thread where that may take its time: other turns share the worker's. The worst texts
/// take some 30 ns a byte.
const INLINE_BYTES: usize = 128 * 1024;

/// Parses a text of this size, whose memory the permit holds until that is over. A long one is given up when its client
/// leaves, which drops the future.
pub async fn parse<T: Send + 'static>(
    size_bytes: usize,
    permit: OwnedSemaphorePermit,
    parse: impl FnOnce(Wanted<'_>) -> T + Send + 'static,
) -> Result<(T, OwnedSemaphorePermit), Failure> {
    if is_short(size_bytes) {
        return Ok((parse(&|| true), permit));
    }
    let is_wanted = Arc::new(AtomicBool::new(true));
    let _present = GiveUpOnDrop(Arc::clone(&is_wanted));
    let parsing = tokio::task::spawn_blocking(move || (parse(&|| is_wanted.load(Ordering::Relaxed)), permit));
    parsing.await.map_err(|_| Failure::Internal)
}

/// Whether a text of this size is parsed where it is.
pub fn is_short(size_bytes: usize) -> bool {
    size_bytes <= INLINE_BYTES
}

struct GiveUpOnDrop(Arc<AtomicBool>);

impl Drop for GiveUpOnDrop {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_long_text_whose_client_leaves_is_given_up_and_its_memory_given_back() {
        let memory = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&memory).try_acquire_owned().unwrap();
        let forever = |wanted: Wanted<'_>| while wanted() {};
        let mut parsing = Box::pin(parse(INLINE_BYTES + 1, permit, forever));
        assert!(parsing.as_mut().now_or_never().is_none());
        assert_eq!(memory.available_permits(), 0);
        drop(parsing);
        drop(memory.acquire().await.unwrap());
    }
}
