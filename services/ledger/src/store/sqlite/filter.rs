//! Which inbox keys are certainly not there, without asking SQLite: nearly every request is a new one.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::{Row as _, SqlitePool};

use crate::Error;

const PROBES: u64 = 4;
const BITS_PER_KEY: usize = 16;
const SMALLEST: usize = 1 << 18;
/// 32 MiB; with more than 16 million keys more of them are looked up in vain.
const MOST_BITS: usize = 1 << 28;

/// A Bloom filter.
struct Bloom {
    words: Vec<u64>,
    keys: usize,
}

impl Bloom {
    fn for_keys(keys: usize) -> Self {
        let bits = (keys.max(SMALLEST) * BITS_PER_KEY)
            .next_power_of_two()
            .min(MOST_BITS);
        Self {
            words: vec![0; bits / 64],
            keys: 0,
        }
    }

    /// Word and mask of each of a key's bits.
    fn places(&self, key: &str) -> impl Iterator<Item = (usize, u64)> + use<> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let (hash, bits) = (hasher.finish(), self.words.len() as u64 * 64);
        let step = (hash >> 32) | 1;
        (0..PROBES).map(move |probe| {
            let bit = hash.wrapping_add(probe.wrapping_mul(step)) & (bits - 1);
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn add(&mut self, key: &str) {
        self.keys += 1;
        for (word, mask) in self.places(key) {
            self.words[word] |= mask;
        }
    }

    fn may_contain(&self, key: &str) -> bool {
        self.places(key)
            .all(|(word, mask)| self.words[word] & mask != 0)
    }

    fn is_crowded(&self) -> bool {
        self.words.len() * 64 < MOST_BITS && self.keys * BITS_PER_KEY > self.words.len() * 64
    }
}

#[derive(Default)]
struct State {
    ready: Option<Bloom>,
    /// Gets new keys from the start, and those on record while they are read.
    making: Option<Bloom>,
}

/// The filter of one file. It is made in the background; until then everything may be there.
#[derive(Default)]
pub(super) struct Filter(Mutex<State>);

impl Filter {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys that are about to be written.
    pub(super) fn add<'a>(&self, keys: impl Iterator<Item = &'a str>) {
        let mut state = self.lock();
        for key in keys {
            if let Some(bloom) = &mut state.ready {
                bloom.add(key);
            }
            if let Some(bloom) = &mut state.making {
                bloom.add(key);
            }
        }
    }

    /// Whether a key may be on record.
    pub(super) fn may_contain(&self, key: &str) -> bool {
        self.lock()
            .ready
            .as_ref()
            .is_none_or(|bloom| bloom.may_contain(key))
    }

    /// Whether a filter is to be made, or a larger one because it has become crowded.
    pub(super) fn is_due(&self) -> bool {
        self.lock().ready.as_ref().is_none_or(Bloom::is_crowded)
    }

    /// Begins to make a filter. No batch may be on its way to storage: it would be seen neither here nor by [`Filter::fill`].
    pub(super) fn begin(&self, rows: usize) {
        self.lock().making = Some(Bloom::for_keys(rows * 2));
    }

    /// Adds what is on record, and uses the filter from then on.
    pub(super) async fn fill(&self, reads: &SqlitePool) -> Result<(), Error> {
        let mut after = i64::MIN;
        loop {
            let sql = "SELECT id, key FROM ledger_inbox WHERE id > $1 ORDER BY id LIMIT 2000";
            let chunk = sqlx::query(sql).bind(after).fetch_all(reads).await?;
            let mut state = self.lock();
            let Some(bloom) = &mut state.making else {
                return Ok(());
            };
            for row in &chunk {
                bloom.add(row.try_get(1)?);
            }
            match chunk.last() {
                Some(last) => after = last.try_get(0)?,
                None => {
                    state.ready = state.making.take();
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_and_little_else() {
        let mut bloom = Bloom::for_keys(1);
        for number in 0..SMALLEST {
            bloom.add(&format!("request/{number}"));
        }
        assert!((0..SMALLEST).all(|number| bloom.may_contain(&format!("request/{number}"))));
        let wrong = (0..10_000)
            .filter(|number| bloom.may_contain(&format!("barrier/{number}")))
            .count();
        assert!(wrong < 200, "{wrong} of 10000");
    }
}
