//! The memory ceiling: whether the process has memory for new turns.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// New turns are refused past this share of the ceiling, in percent.
const REFUSE_PERCENT: u64 = 80;
/// They are accepted again below this one: the allocator returns memory with a delay.
const ACCEPT_PERCENT: u64 = 75;

/// Reads the resident memory of the process.
pub type ReadMemory = Arc<dyn Fn() -> io::Result<u64> + Send + Sync>;

/// What the last reading of the resident memory means to new turns.
#[derive(Debug, Default)]
pub struct MemoryCeiling {
    is_refusing: AtomicBool,
    refused: Counter,
    resident: Gauge,
    ceiling: Gauge,
}

/// A change that a reading brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// New turns are refused from now on.
    Above,
    /// They are accepted again.
    Below,
}

// === impl MemoryCeiling ===

impl MemoryCeiling {
    /// Whether a new turn must be refused. Counts the refusal.
    pub fn refuses_turn(&self) -> bool {
        let is_refusing = self.is_refusing.load(Ordering::Relaxed);
        if is_refusing {
            self.refused.inc();
        }
        is_refusing
    }

    /// Takes over a reading. Only one task may call this.
    pub fn update(&self, resident_bytes: u64, ceiling_bytes: u64) -> Option<Crossing> {
        self.ceiling.set(i64::try_from(ceiling_bytes).unwrap_or(i64::MAX));
        let was_refusing = self.is_refusing.load(Ordering::Relaxed);
        let percent = if was_refusing { ACCEPT_PERCENT } else { REFUSE_PERCENT };
        let is_refusing = resident_bytes >= percent_of(ceiling_bytes, percent);
        self.is_refusing.store(is_refusing, Ordering::Relaxed);
        // Whoever sees the reading in the metrics meets what it has decided.
        self.resident.set(i64::try_from(resident_bytes).unwrap_or(i64::MAX));
        match (was_refusing, is_refusing) {
            (false, true) => Some(Crossing::Above),
            (true, false) => Some(Crossing::Below),
            _ => None,
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "memory_resident",
            "Resident memory of the process; 0 while the memory ceiling is off",
            Unit::Bytes,
            self.resident.clone(),
        );
        registry.register_with_unit(
            "memory_ceiling",
            "Memory that the process may take; 0 if the memory ceiling is off",
            Unit::Bytes,
            self.ceiling.clone(),
        );
        registry.register(
            "memory_refused_turns",
            "Turns refused because of the memory ceiling",
            self.refused.clone(),
        );
    }
}

pub fn percent_of(bytes: u64, percent: u64) -> u64 {
    bytes / 100 * percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_refused_past_80_percent_until_memory_is_below_75_percent() {
        let memory = MemoryCeiling::default();
        let update = |percent: u64| (memory.update(percent, 100), memory.refuses_turn());
        assert_eq!(update(79), (None, false));
        assert_eq!(update(80), (Some(Crossing::Above), true));
        assert_eq!(update(120), (None, true));
        assert_eq!(update(75), (None, true));
        assert_eq!(update(74), (Some(Crossing::Below), false));
        assert_eq!(update(79), (None, false));
        assert_eq!(update(80), (Some(Crossing::Above), true));
    }
}
