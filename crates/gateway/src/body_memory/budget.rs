//! A number of bytes that reservations take from, in the order in which they ask.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};

/// Taking what is free costs one atomic operation, and so does giving back while nobody waits.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    free: AtomicUsize,
    /// How many stand in line, and what they hold already.
    waiting: AtomicUsize,
    held_in_line: AtomicUsize,
    /// Held by the first in line.
    line: Mutex<()>,
    /// Wakes the first in line.
    freed: Notify,
}

/// Bytes that go back when this is dropped, unless they are kept.
pub struct Taken<'a> {
    budget: &'a Budget,
    bytes: usize,
}

/// Counts one that stands in line, and what it holds.
struct InLine<'a> {
    budget: &'a Budget,
    held: usize,
}

// === impl Budget ===

impl Budget {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            free: AtomicUsize::new(total),
            waiting: AtomicUsize::new(0),
            held_in_line: AtomicUsize::new(0),
            line: Mutex::new(()),
            freed: Notify::new(),
        }
    }

    pub fn total_bytes(&self) -> usize {
        self.total
    }

    pub fn used_bytes(&self) -> usize {
        self.total - self.free.load(Ordering::Relaxed)
    }

    /// Takes bytes that are free and that nobody waits for.
    pub fn try_take(&self, bytes: usize) -> Option<Taken<'_>> {
        let is_next = bytes == 0 || self.waiting.load(Ordering::SeqCst) == 0;
        is_next.then(|| self.take_free(bytes)).flatten()
    }

    /// Waits in line until the bytes are free, for somebody who holds some already. `None` if those in line would hold more
    /// than half of the budget: they would wait for each other.
    pub async fn take(&self, bytes: usize, held: usize) -> Option<Taken<'_>> {
        let (_in_line, all_held) = InLine::enter(self, held);
        if all_held > held && all_held > self.total / 2 {
            return None;
        }
        let _first = self.line.lock().await;
        loop {
            if let Some(taken) = self.take_free(bytes) {
                return Some(taken);
            }
            self.freed.notified().await;
        }
    }

    fn take_free(&self, bytes: usize) -> Option<Taken<'_>> {
        let take = |free: usize| free.checked_sub(bytes);
        let taken = self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        taken.is_ok().then(|| Taken { budget: self, bytes })
    }

    pub fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        // Either this sees who has just begun to wait, or they see these bytes.
        self.free.fetch_add(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }
}

// === impl Taken ===

impl Taken<'_> {
    /// Leaves it to the caller to give the bytes back.
    pub fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

// === impl InLine ===

impl<'a> InLine<'a> {
    /// Also yields what all in line hold.
    fn enter(budget: &'a Budget, held: usize) -> (Self, usize) {
        budget.waiting.fetch_add(1, Ordering::SeqCst);
        let all_held = held + budget.held_in_line.fetch_add(held, Ordering::SeqCst);
        (Self { budget, held }, all_held)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.budget.held_in_line.fetch_sub(self.held, Ordering::SeqCst);
        self.budget.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_large_reservation_is_not_overtaken_by_small_ones() {
        let budget = Budget::new(10);
        budget.try_take(8).unwrap().keep();
        let mut large = Box::pin(budget.take(6, 0));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(budget.try_take(1).is_none(), "somebody waits");
        let mut small = Box::pin(budget.take(1, 0));
        budget.give_back(3);
        assert!(small.as_mut().now_or_never().is_none() && large.as_mut().now_or_never().is_none());
        budget.give_back(1);
        large.await.unwrap().keep();
        assert!(small.as_mut().now_or_never().is_none());
        budget.give_back(6);
        small.await.unwrap().keep();
        assert_eq!(budget.used_bytes(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_makes_way_for_the_next() {
        let budget = Budget::new(10);
        budget.try_take(9).unwrap().keep();
        let second = Duration::from_secs(1);
        let (first, next) = tokio::join!(
            tokio::time::timeout(second, budget.take(2, 0)),
            tokio::time::timeout(2 * second, budget.take(1, 0)),
        );
        assert!(first.is_err());
        drop(next.unwrap().unwrap());
        assert_eq!(budget.used_bytes(), 9);
        assert!(budget.try_take(1).is_some());
    }

    #[tokio::test]
    async fn those_in_line_hold_at_most_half_of_the_budget() {
        let budget = Budget::new(10);
        budget.try_take(10).unwrap().keep();
        let mut first = Box::pin(budget.take(1, 8));
        assert!(first.as_mut().now_or_never().is_none(), "alone it may wait");
        assert!(budget.take(1, 1).await.is_none());
        drop(first);
        let mut others: Vec<_> = (0..5).map(|_| Box::pin(budget.take(1, 1))).collect();
        assert!(others.iter_mut().all(|other| other.as_mut().now_or_never().is_none()));
        assert!(budget.take(1, 1).await.is_none());
    }
}
