//! What this process owns: the shards whose sagas it runs, and for how long it may act on that without asking.
//!
//! A saga belongs to a shard, for good. There is one shard for each name of a replica (its home), and a replica starts sagas in its own; while a replica
//! is away another one owns its shard too. Where the log is for one process there is one shard, owned as long as the process runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chassis::Env;
use ledger::{Fence, Standing};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The shard of a log that is for one process.
pub(crate) const ONLY: i64 = 0;
/// No shard.
const NONE: i64 = i64::MIN;
/// How long somebody who asks who owns a shard waits for the answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Shared by the decider, the dispatcher, the keeper and the services. Cheap to clone.
#[derive(Clone)]
pub struct Ownership(Arc<Inner>);

struct Inner {
    env: Env,
    begun: Instant,
    /// Epochs by shard.
    held: RwLock<BTreeMap<i64, i64>>,
    /// The shard whose home this replica is.
    home: AtomicI64,
    /// Until when nobody else can own what is held: by the monotonic clock, in milliseconds since `begun`, and by the clock of the day, in Unix
    /// milliseconds. The first of them counts: one stands still while the machine sleeps, the other one may be set.
    until: (AtomicU64, AtomicI64),
    standing: RwLock<Arc<Standing>>,
    /// Wakes those who wait for that in the order in which they came: a simulation must run the same way twice.
    seen: Notify,
    shared: bool,
    news: Notify,
}

impl Ownership {
    /// Owns everything: the log is for this process alone.
    pub fn alone(env: &Env) -> Self {
        let alone = Self::new(env, false);
        alone.hold(Fence {
            shard: ONLY,
            epoch: 0,
        });
        alone.set_home(ONLY);
        let (monotonic, day) = &alone.0.until;
        monotonic.store(u64::MAX, Ordering::Relaxed);
        day.store(i64::MAX, Ordering::Relaxed);
        alone
    }

    /// Owns nothing yet.
    pub fn shared(env: &Env) -> Self {
        Self::new(env, true)
    }

    fn new(env: &Env, shared: bool) -> Self {
        Self(Arc::new(Inner {
            env: env.clone(),
            begun: Instant::now(),
            held: RwLock::default(),
            home: AtomicI64::new(NONE),
            until: (AtomicU64::new(0), AtomicI64::new(0)),
            standing: RwLock::default(),
            seen: Notify::new(),
            shared,
            news: Notify::new(),
        }))
    }

    /// Whether others may own shards of the same log.
    pub fn is_shared(&self) -> bool {
        self.0.shared
    }

    /// Under which lease a saga of this shard is written; `None` if this process does not own it.
    pub fn fence(&self, shard: i64) -> Option<Fence> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        held.get(&shard).map(|epoch| Fence {
            shard,
            epoch: *epoch,
        })
    }

    /// Every shard that this process owns.
    pub fn held(&self) -> Vec<Fence> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        let fence = |(shard, epoch): (&i64, &i64)| Fence {
            shard: *shard,
            epoch: *epoch,
        };
        held.iter().map(fence).collect()
    }

    /// Where new sagas go; `None` while this process does not own its home.
    pub fn home(&self) -> Option<i64> {
        let home = self.0.home.load(Ordering::Relaxed);
        self.fence(home).map(|fence| fence.shard)
    }

    /// Whether effects may be released: whoever looks again after a pause learns here that others may have gone on meanwhile.
    pub fn may_release(&self) -> bool {
        let (monotonic, day) = &self.0.until;
        let now = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        now < monotonic.load(Ordering::Relaxed)
            && self.0.env.clock.now_millis() < day.load(Ordering::Relaxed)
    }

    /// Who is there and who owns what, as it was seen last.
    pub fn standing(&self) -> Arc<Standing> {
        let standing = self.0.standing.read();
        Arc::clone(&standing.unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks who is there and who owns what, and waits for the answer.
    pub(crate) async fn look_again(&self) {
        let seen = self.0.seen.notified();
        self.0.news.notify_one();
        // Whoever asked looks at what is known then, whether or not that is new.
        drop(tokio::time::timeout(LOOK_AGAIN, seen).await);
    }

    /// Waits until a shard has another owner than now, or none.
    pub(crate) async fn moved(&self, shard: i64) {
        let owner = self.standing().owner(shard).map(str::to_owned);
        loop {
            // Before the look: what is seen after it is not missed.
            let seen = self.0.seen.notified();
            if self.standing().owner(shard) != owner.as_deref() {
                return;
            }
            seen.await;
        }
    }

    /// Whether there are shards of other replicas, or were.
    pub(crate) fn has_peers(&self) -> bool {
        self.0.shared && self.standing().leases.len() > 1
    }

    /// From now on the decider writes under this lease.
    pub(crate) fn hold(&self, fence: Fence) {
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        held.insert(fence.shard, fence.epoch);
    }

    /// This lease is lost or given up. False if it was not held.
    pub(crate) fn lose(&self, fence: Fence) -> bool {
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        let known = held.get(&fence.shard) == Some(&fence.epoch);
        if known {
            held.remove(&fence.shard);
            drop(held);
            self.0.news.notify_one();
        }
        known
    }

    /// Waits until a lease was lost, or somebody asks.
    pub(crate) async fn news(&self) {
        self.0.news.notified().await;
    }

    pub(crate) fn set_home(&self, shard: i64) {
        self.0.home.store(shard, Ordering::Relaxed);
    }

    pub(crate) fn set_standing(&self, standing: Standing) {
        let known = self.0.standing.write();
        *known.unwrap_or_else(PoisonError::into_inner) = Arc::new(standing);
        self.0.seen.notify_waiters();
    }

    /// Nobody else can own what is held for so long after `asked` (and after the Unix milliseconds beside it).
    pub(crate) fn extend(&self, asked: (Instant, i64), by: Duration) {
        let since = asked.0.duration_since(self.0.begun) + by;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let day = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let (monotonic, until) = &self.0.until;
        monotonic.store(millis(since), Ordering::Relaxed);
        until.store(asked.1.saturating_add(day), Ordering::Relaxed);
    }

    /// Now, by both clocks.
    pub(crate) fn now(&self) -> (Instant, i64) {
        (Instant::now(), self.0.env.clock.now_millis())
    }
}

impl std::fmt::Debug for Ownership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ownership")
            .field("held", &self.held())
            .field("shared", &self.0.shared)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chassis::env::ManualClock;

    use super::*;

    #[test]
    fn effects_are_held_back_once_either_clock_says_that_the_lease_may_be_over() {
        let clock = Arc::new(ManualClock::at(1_000));
        let env = Env {
            clock: clock.clone(),
            ..Env::system()
        };
        let shared = Ownership::shared(&env);
        assert!(!shared.may_release());
        shared.extend(shared.now(), Duration::from_secs(4));
        assert!(shared.may_release());
        clock.advance(Duration::from_secs(4));
        assert!(!shared.may_release(), "the machine slept");
        shared.extend(shared.now(), Duration::from_secs(4));
        assert!(shared.may_release());
        let (now, day) = shared.now();
        shared.extend((now, day + 4_000), Duration::ZERO);
        assert!(!shared.may_release(), "the clock of the day was set back");
        assert!(Ownership::alone(&env).may_release());
    }

    #[test]
    fn only_the_newest_lease_can_be_lost() {
        let shared = Ownership::shared(&Env::system());
        shared.set_home(3);
        assert_eq!(shared.home(), None);
        let lease = |epoch| Fence { shard: 3, epoch };
        shared.hold(lease(1));
        shared.hold(lease(2));
        assert!(!shared.lose(lease(1)));
        assert_eq!((shared.home(), shared.fence(3)), (Some(3), Some(lease(2))));
        assert!(shared.lose(lease(2)));
        assert_eq!((shared.home(), shared.held()), (None, Vec::new()));
    }
}
