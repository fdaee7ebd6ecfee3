//! Watches the memory of the process: shrinks the cache of chains when memory is tight, and then has new turns refused.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::memory::return_freed;
use antiphon_store::chain::Chains;

use crate::memory::{Crossing, MemoryCeiling, ReadMemory, percent_of};

const READ_INTERVAL: Duration = Duration::from_millis(250);
/// The cache of chains leaves the memory past this share of the ceiling free, in percent: it shrinks before turns are refused.
const CACHE_PERCENT: u64 = 70;

/// What the job works with.
pub struct MemoryWatch {
    pub memory: Arc<MemoryCeiling>,
    pub chains: Arc<Chains>,
    pub read: ReadMemory,
    /// The most memory for the cache of chains.
    pub cache_bytes: usize,
}

// === impl MemoryWatch ===

impl MemoryWatch {
    /// `ceiling_bytes` is `None` if the system does not tell.
    pub async fn run(self, ceiling_bytes: Option<u64>) {
        let (Some(ceiling_bytes), Ok(_)) = (ceiling_bytes, (self.read)()) else {
            tracing::info!("the memory ceiling is off: this system does not tell how much memory is in use");
            return;
        };
        loop {
            return_freed();
            match (self.read)() {
                Ok(resident_bytes) => self.update(resident_bytes, ceiling_bytes),
                Err(error) => tracing::debug!(%error, "the resident memory could not be read"),
            }
            tokio::time::sleep(READ_INTERVAL).await;
        }
    }

    fn update(&self, resident_bytes: u64, ceiling_bytes: u64) {
        match self.memory.update(resident_bytes, ceiling_bytes) {
            Some(Crossing::Above) => {
                tracing::warn!(resident_bytes, ceiling_bytes, "memory is short; refusing new turns");
            }
            Some(Crossing::Below) => {
                tracing::info!(resident_bytes, ceiling_bytes, "memory is free again; accepting new turns");
            }
            None => {}
        }
        let cached_bytes = self.chains.cache_stats().live_bytes as u64;
        let room = (cached_bytes + percent_of(ceiling_bytes, CACHE_PERCENT)).saturating_sub(resident_bytes);
        self.chains.set_cache_size(self.cache_bytes.min(usize::try_from(room).unwrap_or(usize::MAX)));
    }
}
