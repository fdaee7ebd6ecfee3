//! Ids like those of the real API: a prefix and 50 hex digits, always unique.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

const ALPHANUMERIC: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The ids of a simulator. The seed differs between processes and simulators.
#[derive(Debug)]
pub(super) struct Mint {
    seed: u64,
    drawn: AtomicU64,
}

impl Mint {
    pub(super) fn new() -> Self {
        Self { seed: RandomState::new().hash_one("mint"), drawn: AtomicU64::new(0) }
    }

    /// SplitMix64: a bijection of the counter, so that no value repeats.
    pub(super) fn draw(&self) -> u64 {
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        mix(self.seed.wrapping_add(count.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    pub(super) fn request_id(&self) -> String {
        let drawn = self.draw();
        format!("req_{drawn:016x}{:016x}", mix(drawn))
    }

    pub(super) fn call_id(&self) -> String {
        let mut low = self.draw();
        let mut high = mix(low);
        let letters = (0..24).map(|position| {
            let source = if position < 12 { &mut low } else { &mut high };
            let letter = ALPHANUMERIC[usize::try_from(*source % 62).unwrap_or(0)];
            *source /= 62;
            char::from(letter)
        });
        format!("call_{}", letters.collect::<String>())
    }

    /// The ids of a response and its items share a prefix.
    pub(super) fn family(&self, created_at: u64) -> Family<'_> {
        Family { mint: self, stem: format!("{:016x}01{created_at:08x}", self.draw()) }
    }
}

pub(super) struct Family<'m> {
    mint: &'m Mint,
    stem: String,
}

impl Family<'_> {
    pub(super) fn id(&self, prefix: &str) -> String {
        let drawn = self.mint.draw();
        format!("{prefix}_{}{drawn:016x}{:08x}", self.stem, mix(drawn) >> 32)
    }

    pub(super) fn call_id(&self) -> String {
        self.mint.call_id()
    }

    pub(super) fn draw(&self) -> u64 {
        self.mint.draw()
    }
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_have_the_length_of_real_ones_and_never_repeat() {
        let mint = Mint::new();
        let mut seen = HashSet::new();
        for _ in 0..1_000 {
            let family = mint.family(1_790_000_000);
            let (response, item) = (family.id("resp"), family.id("msg"));
            assert_eq!(response.len(), "resp_".len() + 50);
            assert_eq!(response["resp_".len()..][..26], item["msg_".len()..][..26]);
            assert!(seen.insert(response));
            assert!(seen.insert(item));
            assert!(seen.insert(mint.call_id()));
            assert!(seen.insert(mint.request_id()));
        }
    }
}
