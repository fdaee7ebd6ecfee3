//! Resident memory as a test orders it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a gateway takes for its resident memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct ManualMemory(Arc<AtomicU64>);

impl ManualMemory {
    /// On a system that does not tell.
    pub const UNKNOWN: u64 = u64::MAX;

    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn read(&self) -> io::Result<u64> {
        match self.0.load(Ordering::SeqCst) {
            Self::UNKNOWN => Err(io::ErrorKind::NotFound.into()),
            bytes => Ok(bytes),
        }
    }
}
