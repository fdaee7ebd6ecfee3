//! Waiting for what happens by itself.

use std::time::Duration;

/// Longer than anything in the tests takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(180);
const INTERVAL: Duration = Duration::from_millis(5);

/// What a test waits for: a condition that becomes true, or a value that appears.
pub trait Awaited {
    type Found;

    fn found(self) -> Option<Self::Found>;
}

impl Awaited for bool {
    type Found = ();

    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Awaited for Option<T> {
    type Found = T;

    fn found(self) -> Self {
        self
    }
}

/// Asks again and again until there is what the test waits for, and returns it. `what` is for the panic when it never comes.
pub async fn eventually<A: Awaited>(what: &str, mut ask: impl AsyncFnMut() -> A) -> A::Found {
    let asking = async {
        loop {
            if let Some(found) = ask().await.found() {
                return found;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    in_time(what, asking).await
}

/// Waits for what a test cannot go on without, and panics when it never comes.
pub(crate) async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    let came = tokio::time::timeout(PATIENCE, future).await;
    came.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_late_is_returned() {
        let mut asked = 0;
        let found = eventually("the third answer", async || {
            asked += 1;
            (asked == 3).then_some("here")
        });
        assert_eq!(found.await, "here");
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not within 180s: the end of time")]
    async fn what_never_comes_is_named() {
        eventually("the end of time", async || false).await;
    }
}
