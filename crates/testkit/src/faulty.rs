//! A store that fails when it is told to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use antiphon_store::StoreError;
use async_trait::async_trait;

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
}

/// Orders faults for the [`Faulty`] store that it was made with.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Fault>>);

/// A store that fails as its [`Faults`] say.
pub type Faulty = Decorated<Faults>;

impl Faults {
    pub fn set(&self, fault: Fault) {
        *self.0.lock().expect("no test panics while it holds this") = fault;
    }

    fn now(&self) -> Fault {
        *self.0.lock().expect("no test panics while it holds this")
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
            _ => Ok(()),
        }
    }

    async fn before_write(&self, method: &str) -> Result<(), StoreError> {
        match self.now() {
            Fault::Down | Fault::WritesFail => Err(unavailable()),
            Fault::Fails(failing) if failing == method => Err(unavailable()),
            Fault::None | Fault::ReadsFail | Fault::Fails(_) => Ok(()),
            Fault::SlowWrites(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
        }
    }

    fn is_available(&self) -> bool {
        self.now() != Fault::Down
    }
}
