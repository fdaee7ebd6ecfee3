//! Wakes the task that drives a connection, and only when there is something to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Filters the wake-ups between a connection and the task that polls it. The parts of a connection wake each other while they
/// are polled, and each of these wake-ups would make the task poll once more for nothing.
pub struct Driver {
    relay: Arc<Relay>,
    waker: Waker,
    /// Whether the last poll returned `Pending`.
    is_waiting: bool,
}

#[derive(Default)]
struct Relay {
    task: AtomicWaker,
    is_driving: AtomicBool,
    was_woken: AtomicBool,
}

// === impl Driver ===

impl Driver {
    pub fn new() -> Self {
        let relay = Arc::<Relay>::default();
        Self { waker: Waker::from(Arc::clone(&relay)), relay, is_waiting: false }
    }

    /// Polls for the task of `cx`, unless nothing has happened since the last poll. A wake-up during the poll reaches the task
    /// only if the poll returns `Pending`.
    pub fn drive<T>(&mut self, cx: &Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.relay.task.register(cx.waker());
        let was_woken = self.relay.was_woken.swap(false, SeqCst);
        if self.is_waiting && !was_woken {
            return Poll::Pending;
        }
        self.relay.is_driving.store(true, SeqCst);
        let polled = poll(&mut Context::from_waker(&self.waker));
        self.relay.is_driving.store(false, SeqCst);
        self.is_waiting = polled.is_pending();
        if self.is_waiting && self.relay.was_woken.load(SeqCst) {
            cx.waker().wake_by_ref();
        }
        polled
    }

    /// Polls for no task: none is woken, or kept in memory, until the next [`drive`](Self::drive).
    pub fn drive_detached<T>(&mut self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        drop(self.relay.task.take());
        self.is_waiting = false;
        poll(&mut Context::from_waker(&self.waker))
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.was_woken.store(true, SeqCst);
        if !self.is_driving.load(SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_task_is_woken_only_if_there_is_something_to_do() {
        let task = Arc::<Task>::default();
        let waker = Waker::from(Arc::clone(&task));
        let cx = Context::from_waker(&waker);
        let woken = || task.0.load(SeqCst);
        let mut driver = Driver::new();
        let mut kept = None;

        let is_done = |cx: &mut Context<'_>| {
            cx.waker().wake_by_ref();
            Poll::Ready(())
        };
        assert!(driver.drive(&cx, is_done).is_ready());
        assert_eq!(woken(), 0);
        let asks_again = |cx: &mut Context<'_>| -> Poll<()> {
            kept = Some(cx.waker().clone());
            cx.waker().wake_by_ref();
            Poll::Pending
        };
        assert!(driver.drive(&cx, asks_again).is_pending());
        assert_eq!(woken(), 1);
        assert!(driver.drive(&cx, |_| Poll::<()>::Pending).is_pending());
        assert_eq!(woken(), 1);
        assert!(driver.drive(&cx, |_| -> Poll<()> { panic!("nothing has happened") }).is_pending());
        kept.as_ref().unwrap().wake_by_ref();
        assert_eq!(woken(), 2);
        assert!(driver.drive(&cx, |_| Poll::Ready(())).is_ready());

        assert!(driver.drive(&cx, |_| Poll::<()>::Pending).is_pending());
        assert!(driver.drive_detached(|_| Poll::<()>::Pending).is_pending());
        kept.as_ref().unwrap().wake_by_ref();
        assert_eq!(woken(), 2);
    }
}
