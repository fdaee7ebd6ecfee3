//! A signal to many tasks. It costs a task next to nothing to wait for it beside something else, however often it is polled.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Given once and for ever, to all clones.
#[derive(Debug, Clone, Default)]
pub struct Signal {
    is_given: Arc<AtomicBool>,
    token: CancellationToken,
}

/// Waits for a signal.
#[derive(Debug)]
pub struct Listener {
    is_given: Arc<AtomicBool>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The task that the signal wakes. It is registered once, because registering takes a lock that all tasks share.
    waker: Option<Waker>,
}

// === impl Signal ===

impl Signal {
    pub fn is_given(&self) -> bool {
        self.is_given.load(Ordering::Acquire)
    }

    pub fn listen(&self) -> Listener {
        let cancelled = Box::pin(self.token.clone().cancelled_owned());
        Listener { is_given: Arc::clone(&self.is_given), cancelled, waker: None }
    }

    pub(crate) fn give(&self) {
        // First, so that a task that is woken sees it.
        self.is_given.store(true, Ordering::Release);
        self.token.cancel();
    }
}

// === impl Listener ===

impl Listener {
    /// The future's output, or `None` if the signal is given first. The caller pins the future, which would take twice the
    /// memory if it were passed by value.
    pub async fn or<F: Future>(&mut self, mut future: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Pin::new(&mut *self).poll(cx).map(|()| None),
        })
        .await
    }
}

impl Future for Listener {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_given.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        self.cancelled.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_signal_wakes_the_task_that_polled_last_and_stays() {
        let tasks = [Arc::<Task>::default(), Arc::<Task>::default()];
        let wakers = tasks.each_ref().map(|task| Waker::from(Arc::clone(task)));
        let signal = Signal::default();
        let mut listener = signal.listen();
        for waker in [&wakers[0], &wakers[1], &wakers[1]] {
            assert!(Pin::new(&mut listener).poll(&mut Context::from_waker(waker)).is_pending());
        }
        assert!(!signal.is_given());
        signal.give();
        assert!(signal.is_given());
        assert_eq!(tasks.each_ref().map(|task| task.0.load(Ordering::Relaxed)), [0, 1]);
        for listener in [&mut listener, &mut signal.clone().listen()] {
            let mut no_task = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut *listener).poll(&mut no_task).is_ready());
        }
    }

    #[tokio::test]
    async fn a_future_runs_until_the_signal_and_its_output_comes_first() {
        let signal = Signal::default();
        let mut listener = signal.listen();
        assert_eq!(listener.or(pin!(async { 1 })).await, Some(1));
        let never = pin!(std::future::pending::<()>());
        let (ended, ()) = tokio::join!(listener.or(never), async {
            tokio::task::yield_now().await;
            signal.give();
        });
        assert_eq!(ended, None);
        assert_eq!(listener.or(pin!(async { 2 })).await, Some(2));
    }
}
