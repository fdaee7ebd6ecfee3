//! Moving many bytes without delaying the other tasks of a worker.

/// What may be moved before other tasks get their turn: tenths of a millisecond.
const BYTES_AT_ONCE: usize = 1024 * 1024;

/// Counts the bytes that a task moves.
#[derive(Debug, Default)]
pub struct Fairness {
    moved_bytes: usize,
}

impl Fairness {
    /// Counts more bytes, and lets other tasks run where it is their turn: a peer that is as fast would never make this one
    /// wait.
    pub async fn count(&mut self, bytes: usize) {
        self.moved_bytes += bytes;
        if self.moved_bytes >= BYTES_AT_ONCE {
            self.moved_bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn other_tasks_run_after_each_mebibyte() {
        let mut context = Context::from_waker(Waker::noop());
        let mut fairness = Fairness::default();
        for _ in 0..3 {
            assert!(pin!(fairness.count(BYTES_AT_ONCE - 1)).poll(&mut context).is_ready());
            let mut last = pin!(fairness.count(1));
            assert!(last.as_mut().poll(&mut context).is_pending());
            last.await;
        }
    }
}
