//! A deadline that moves often and is rarely reached.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// Moving it later costs nothing: its timer stays as it is, and is set again only when it fires too early.
pub struct Deadline {
    timer: Pin<Box<Sleep>>,
    /// The task that the timer wakes; `None` until it is registered.
    waker: Option<Waker>,
}

// === impl Deadline ===

impl Deadline {
    pub fn new(deadline: Instant) -> Self {
        Self { timer: Box::pin(sleep_until(deadline)), waker: None }
    }

    /// The future's output, or `None` if `deadline` is reached first. The caller pins the future, which would take twice the
    /// memory if it were passed by value.
    pub async fn before<F: Future>(
        &mut self,
        deadline: Instant,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_reached(cx, deadline).map(|()| None),
        })
        .await
    }

    /// Ready when `deadline` is reached. The task is woken for the deadline of the latest call.
    fn poll_reached(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if deadline < self.timer.deadline() {
            self.set(deadline);
        }
        loop {
            if self.timer.is_elapsed() {
                if deadline <= Instant::now() {
                    return Poll::Ready(());
                }
                self.set(deadline);
            }
            if self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            // Constrained, a poll may be refused, and would not register the task.
            if pin!(unconstrained(self.timer.as_mut())).poll(cx).is_pending() {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }

    fn set(&mut self, deadline: Instant) {
        self.timer.as_mut().reset(deadline);
        self.waker = None;
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline").field("timer", &self.timer.deadline()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn is_reached(deadline: &mut Deadline, at: Instant) -> bool {
        deadline.poll_reached(&mut Context::from_waker(Waker::noop()), at).is_ready()
    }

    async fn reached(deadline: &mut Deadline, at: Instant) -> Instant {
        poll_fn(|cx| deadline.poll_reached(cx, at)).await;
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_stays_is_reached_on_time() {
        let at = Instant::now() + 3 * SECOND;
        assert_eq!(reached(&mut Deadline::new(at), at).await, at);
    }

    #[tokio::test(start_paused = true)]
    async fn an_output_at_the_deadline_comes_first() {
        let at = Instant::now() + SECOND;
        let mut deadline = Deadline::new(at);
        assert_eq!(deadline.before(at, pin!(tokio::time::sleep(SECOND))).await, Some(()));
        assert_eq!(deadline.before(at, pin!(async { 1 })).await, Some(1));
        assert_eq!(deadline.before(at, pin!(std::future::pending::<()>())).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_later_is_reached_only_then() {
        let start = Instant::now();
        let mut deadline = Deadline::new(start + SECOND);
        for seconds in 1..100 {
            assert!(!is_reached(&mut deadline, start + seconds * SECOND));
            tokio::time::advance(SECOND / 2).await;
        }
        let at = start + 100 * SECOND;
        assert_eq!(reached(&mut deadline, at).await, at);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_earlier_is_reached_then() {
        let start = Instant::now();
        let mut deadline = Deadline::new(start + 60 * SECOND);
        assert!(!is_reached(&mut deadline, start + 60 * SECOND));
        assert_eq!(reached(&mut deadline, start + SECOND).await, start + SECOND);
        assert!(is_reached(&mut deadline, start));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_was_reached_can_be_moved_again() {
        let start = Instant::now();
        let mut deadline = Deadline::new(start + SECOND);
        for seconds in [1, 2, 5] {
            let at = start + seconds * SECOND;
            assert_eq!(reached(&mut deadline, at).await, at);
        }
        assert!(is_reached(&mut deadline, start));
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_that_polled_last_is_woken() {
        let at = Instant::now() + 2 * SECOND;
        let mut deadline = Deadline::new(at - SECOND);
        assert!(!is_reached(&mut deadline, at));
        assert_eq!(reached(&mut deadline, at).await, at);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_used_up_its_budget_is_woken_as_well() {
        let at = Instant::now() + SECOND;
        let mut deadline = Deadline::new(at);
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        assert_eq!(reached(&mut deadline, at).await, at);
    }
}
