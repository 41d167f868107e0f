//! Chance, from a seed.

use std::time::Duration;

use chassis::env::{Entropy as _, SeededEntropy};

/// A sequence of random draws that is the same for the same seed.
#[derive(Debug)]
pub struct Dice(SeededEntropy);

impl Dice {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    /// The sequence of a seed and a name: draws for one purpose do not move those for another.
    pub fn named(seed: u64, name: &str) -> Self {
        Self::new(mix(seed, name))
    }

    /// Any 64 bits.
    pub fn bits(&self) -> u64 {
        self.0.next_u64()
    }

    /// 0 to `end - 1`; 0 when `end` is 0.
    pub fn below(&self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// `first` to `last`.
    pub fn within(&self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// Whether something that happens `per_mille` times in a thousand happens now.
    pub fn happens(&self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// One of several.
    pub fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(usize::try_from(self.below(of.len() as u64)).unwrap_or(0))
    }

    /// A time of `first` to `last` milliseconds.
    pub fn millis(&self, first: u64, last: u64) -> Duration {
        Duration::from_millis(self.within(first, last))
    }
}

/// A seed for `name`, from another seed.
pub fn mix(seed: u64, name: &str) -> u64 {
    fnv(seed ^ 0xcbf2_9ce4_8422_2325, name.as_bytes())
}

/// FNV-1a, from a start value.
pub fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
