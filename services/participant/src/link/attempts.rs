//! The attempts of one link: running, and ended but not acknowledged. They outlive streams.

use std::collections::{BTreeMap, BTreeSet};

use sagamesh_api::saga::v1::Result as StepResult;

/// What is known of a lease token.
#[derive(Debug)]
pub(crate) enum Known<'a> {
    /// Never seen, or over.
    No,
    /// Its handler runs.
    Running,
    /// It ended; this is the result that is not acknowledged yet.
    Ended(&'a StepResult),
}

/// The attempts of one link, and the credits that go with them.
#[derive(Debug)]
pub(crate) struct Attempts {
    concurrency: u32,
    running: BTreeSet<u64>,
    unacknowledged: BTreeMap<u64, StepResult>,
    /// Credits that the coordinator holds.
    granted: u32,
    /// Credits that may be given back. Negative after a stream that began with a credit too many.
    owed: i64,
}

impl Attempts {
    pub(crate) const fn new(concurrency: u32) -> Self {
        Self {
            concurrency,
            running: BTreeSet::new(),
            unacknowledged: BTreeMap::new(),
            granted: 0,
            owed: 0,
        }
    }

    /// A new stream begins: the credits for its Hello. At least one, which the contract asks for; the work that runs already is
    /// subtracted, now or later.
    pub(crate) fn open(&mut self) -> u32 {
        let busy = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        self.granted = self.concurrency.saturating_sub(busy).max(1);
        self.owed = i64::from(self.concurrency) - i64::from(busy) - i64::from(self.granted);
        self.granted
    }

    /// Lease tokens for Hello: everything that must not be sent again.
    pub(crate) fn in_progress(&self) -> Vec<u64> {
        self.running
            .iter()
            .chain(self.unacknowledged.keys())
            .copied()
            .collect()
    }

    /// A command came: whether there was a credit for it.
    pub(crate) const fn spend(&mut self) -> bool {
        if self.granted == 0 {
            return false;
        }
        self.granted -= 1;
        true
    }

    /// Whether one more may run: streams that began while everything was busy had to give a credit each, and only one of
    /// these commands runs beyond the concurrency.
    pub(crate) fn has_room(&self) -> bool {
        self.running.len() <= self.concurrency as usize
    }

    /// What is known of a lease token.
    pub(crate) fn known(&self, token: u64) -> Known<'_> {
        if self.running.contains(&token) {
            return Known::Running;
        }
        self.unacknowledged
            .get(&token)
            .map_or(Known::No, Known::Ended)
    }

    /// A handler was started.
    pub(crate) fn started(&mut self, token: u64) {
        self.running.insert(token);
    }

    /// A handler ended; its result is kept until it is acknowledged.
    pub(crate) fn ended(&mut self, result: StepResult) {
        if self.running.remove(&result.lease_token) {
            self.owed += 1;
        }
        self.unacknowledged.insert(result.lease_token, result);
    }

    /// A credit was spent on a command that needs no handler.
    pub(crate) const fn refund(&mut self) {
        self.owed += 1;
    }

    /// A result was acknowledged: whether there was one.
    pub(crate) fn acknowledged(&mut self, token: u64) -> bool {
        self.unacknowledged.remove(&token).is_some()
    }

    /// Results that go on through another link.
    pub(crate) fn give_away(&mut self) -> Vec<StepResult> {
        std::mem::take(&mut self.unacknowledged)
            .into_values()
            .collect()
    }

    /// A result that another link left.
    pub(crate) fn adopt(&mut self, result: StepResult) {
        self.unacknowledged.insert(result.lease_token, result);
    }

    /// Results to send on a new stream.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = &StepResult> {
        self.unacknowledged.values()
    }

    /// Credits to give back now: in batches of a quarter, or when the coordinator has none left, or when nothing runs.
    pub(crate) fn credits_to_return(&mut self) -> Option<u32> {
        let batch = i64::from((self.concurrency / 4).max(1));
        if self.owed < batch && self.granted > 0 && !self.running.is_empty() {
            return None;
        }
        self.all_credits_to_return()
    }

    /// All credits that are owed, however few: for every heartbeat, so that a few long handlers do not hold the others' back.
    /// While four times the concurrency waits for acknowledgement, none are: the coordinator is behind.
    pub(crate) fn all_credits_to_return(&mut self) -> Option<u32> {
        let behind = self.unacknowledged.len() > 4 * self.concurrency as usize + 64;
        if self.owed <= 0 || behind {
            return None;
        }
        let credits = u32::try_from(self.owed).unwrap_or(u32::MAX);
        self.owed = 0;
        self.granted = self.granted.saturating_add(credits);
        Some(credits)
    }

    /// Whether every handler has ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether nothing runs and everything is acknowledged.
    pub(crate) fn is_settled(&self) -> bool {
        self.running.is_empty() && self.unacknowledged.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn result(lease_token: u64) -> StepResult {
        StepResult {
            lease_token,
            ..StepResult::default()
        }
    }

    proptest! {
        /// Whatever happens, credits out + running never exceed the concurrency (but for the one that Hello must carry), and
        /// none is lost: once idle, all of them are with the coordinator.
        #[test]
        fn credits_are_neither_exceeded_nor_lost(
            concurrency in 1_u32..20,
            moves in prop::collection::vec((0_u8..6, any::<prop::sample::Index>()), 0..300),
        ) {
            let mut attempts = Attempts::new(concurrency);
            let mut next = 1;
            attempts.open();
            for (kind, choice) in moves {
                let running: Vec<u64> = attempts.running.iter().copied().collect();
                match kind {
                    0 if attempts.spend() => {
                        if attempts.has_room() {
                            attempts.started(next);
                            next += 1;
                        } else {
                            attempts.refund();
                        }
                    }
                    1 if !running.is_empty() => attempts.ended(result(running[choice.index(running.len())])),
                    2 => {
                        let token = attempts.unacknowledged.keys().next().copied();
                        if let Some(token) = token {
                            prop_assert!(attempts.acknowledged(token));
                        }
                    }
                    3 => { attempts.open(); }
                    4 => { attempts.all_credits_to_return(); }
                    _ => { attempts.credits_to_return(); }
                }
                let busy = attempts.running.len();
                prop_assert!(busy <= concurrency as usize + 1, "{attempts:?}");
                let out = attempts.granted as usize + busy;
                prop_assert!(out <= concurrency as usize + 2, "{attempts:?}");
                prop_assert_eq!(i64::from(attempts.granted) + busy as i64 + attempts.owed, i64::from(concurrency));
            }
            for token in attempts.running.clone() {
                attempts.ended(result(token));
            }
            for token in attempts.unacknowledged.keys().copied().collect::<Vec<_>>() {
                attempts.acknowledged(token);
            }
            attempts.credits_to_return();
            prop_assert_eq!(attempts.granted, concurrency);
            prop_assert!(attempts.is_settled());
        }
    }
}
