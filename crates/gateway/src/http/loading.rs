//! Loads what a reply shows, within the caller's share of the memory for bodies.

use std::sync::Arc;

use antiphon_runtime::offload::is_short;

use super::app_state::BodyLimits;
use super::error::RequestError;
use crate::body_memory::{Reservation, Share};

impl BodyLimits {
    /// Loads something and reserves memory for it and for what is rendered of it. If there is not enough memory it lets go of
    /// what it has loaded, waits, and loads again.
    pub async fn load<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        share: &Arc<Share>,
        load: impl Fn() -> F,
        size_bytes: impl Fn(&T) -> usize,
    ) -> Result<(T, Reservation), RequestError> {
        let mut memory = Reservation::empty(share);
        let mut patience = self.read_timeout;
        loop {
            let loaded = load().await?;
            let size_bytes = size_bytes(&loaded);
            if is_short(size_bytes) {
                return Ok((loaded, memory));
            }
            let missing = memory.for_reply(size_bytes).saturating_sub(memory.bytes());
            if memory.try_grow(missing) {
                return Ok((loaded, memory));
            }
            drop(loaded);
            memory.grow(missing, &mut patience).await?;
        }
    }

    /// Waits for the memory of a reply with something of this size, which is loaded already.
    pub async fn hold(&self, share: &Arc<Share>, size_bytes: usize) -> Result<Reservation, RequestError> {
        let mut memory = Reservation::empty(share);
        if !is_short(size_bytes) {
            memory.grow(memory.for_reply(size_bytes), &mut self.read_timeout.clone()).await?;
        }
        Ok(memory)
    }
}

impl Reservation {
    /// What a text of this size and what is rendered of it take: not more than the tenant can have.
    fn for_reply(&self, size_bytes: usize) -> usize {
        size_bytes.saturating_mul(2).min(self.max_bytes())
    }
}
