//! A store that fails when it is told to.

use std::sync::Arc;
use std::time::Duration;

use antiphon_store::StoreError;
use async_trait::async_trait;
use tokio::sync::watch;

use crate::decorated::{Decorated, Interceptor};

/// What goes wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Nothing works, and the store says so beforehand.
    Down,
    /// Writes work, but reads fail.
    ReadsFail,
    /// Reads work and the store looks well, but a write fails.
    WritesFail,
    /// A write takes this long.
    SlowWrites(Duration),
    /// All calls of this method fail.
    Fails(&'static str),
    /// All writes by this method are made, but their callers get an error.
    LosesReplies(&'static str),
    /// All reads by this method wait until something else is ordered.
    Waits(&'static str),
}

/// Orders faults for the [`Faulty`] store that it was made with.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<watch::Sender<Fault>>);

/// A store that fails as its [`Faults`] say.
pub type Faulty = Decorated<Faults>;

impl Faults {
    pub fn set(&self, fault: Fault) {
        self.0.send_replace(fault);
    }

    /// How many reads wait.
    pub fn waiting(&self) -> usize {
        self.0.receiver_count()
    }

    fn now(&self) -> Fault {
        *self.0.borrow()
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("ordered by the test".to_owned())
}

#[async_trait]
impl Interceptor for Faults {
    async fn before_read(&self, method: &str) -> Result<(), StoreError> {
        match self.now() {
            Fault::Down | Fault::ReadsFail => Err(unavailable()),
            Fault::Fails(failing) if failing == method => Err(unavailable()),
            Fault::Waits(waiting) if waiting == method => {
                let mut orders = self.0.subscribe();
                orders.wait_for(|fault| *fault != Fault::Waits(waiting)).await.expect("its sender is here");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn before_write(&self, method: &str) -> Result<(), StoreError> {
        match self.now() {
            Fault::Down | Fault::WritesFail => Err(unavailable()),
            Fault::Fails(failing) if failing == method => Err(unavailable()),
            Fault::None | Fault::ReadsFail | Fault::Fails(_) | Fault::LosesReplies(_) | Fault::Waits(_) => {
                Ok(())
            }
            Fault::SlowWrites(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
        }
    }

    async fn after_write(&self, method: &str) -> Result<(), StoreError> {
        match self.now() {
            Fault::LosesReplies(losing) if losing == method => Err(unavailable()),
            _ => Ok(()),
        }
    }

    fn is_available(&self) -> bool {
        self.now() != Fault::Down
    }
}
