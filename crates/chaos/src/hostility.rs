//! What a hostile upstream replies.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::wire::{chunk, garbage, head_of_stream};

const STATUSES: [u16; 12] = [400, 401, 403, 408, 409, 413, 422, 429, 500, 502, 503, 529];
/// How many turns of ten a hostile upstream spoils.
const SPOILT_OF_TEN: u8 = 7;

/// Decides which turns are spoilt, and how.
pub struct Hostility {
    is_on: AtomicBool,
    rng: Mutex<StdRng>,
}

/// A reply that is not what the turn asked for.
pub enum Reply {
    /// The right reply up to a random byte, then the connection ends.
    Cut(f64),
    /// These bytes, then the connection ends.
    Bytes(Vec<u8>),
    /// An HTTP error.
    Refusal(u16),
    /// Events without an end.
    EndlessEvents,
    /// An event without an end.
    EndlessItem,
    /// The right reply up to a random byte, then nothing, and the connection stays open.
    Silence(f64),
}

impl Hostility {
    pub fn new(rng: StdRng) -> Self {
        Self { is_on: AtomicBool::new(false), rng: Mutex::new(rng) }
    }

    pub fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// How the next turn is spoilt, if it is.
    pub fn next(&self) -> Option<Reply> {
        if !self.is_on.load(Ordering::Relaxed) {
            return None;
        }
        let mut rng = self.rng.lock().expect("nobody panics while holding it");
        (rng.random_range(0..10) < SPOILT_OF_TEN).then(|| reply(&mut rng))
    }
}

fn reply(rng: &mut StdRng) -> Reply {
    match rng.random_range(0..10) {
        0..3 => Reply::Cut(rng.random_range(0.0..0.999)),
        3 => {
            let length = rng.random_range(0..4000);
            Reply::Bytes(garbage(rng, length))
        }
        4 => {
            let length = rng.random_range(0..4000);
            Reply::Bytes([head_of_stream(), chunk(&garbage(rng, length))].concat())
        }
        5..7 => Reply::Refusal(STATUSES[rng.random_range(0..STATUSES.len())]),
        7 => Reply::EndlessEvents,
        8 => Reply::EndlessItem,
        _ => Reply::Silence(rng.random_range(0.0..0.999)),
    }
}
