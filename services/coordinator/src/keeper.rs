//! Keeps this process's shards: renews them, takes what nobody owns, gives back what has its home elsewhere, and hands everything over before it stops.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chassis::Readiness;
use ledger::{Fence, Shards, Standing, Taken};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::recovery;

/// How often it looks who is there and who owns what. A shard that was handed over waits for this at most.
const LOOK: Duration = Duration::from_millis(250);
/// It does not look more often than this, however often it is asked.
const AT_MOST: Duration = Duration::from_millis(25);
/// A lease is renewed so many times while it lasts.
const RENEWALS: u32 = 5;
/// How long a process that ends may take to say so.
const LEAVE: Duration = Duration::from_secs(2);
/// How long a new process tries to arrive.
const ARRIVE: Duration = Duration::from_secs(30);

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Inner>);

struct Inner {
    engine: Engine,
    shards: Shards,
    lease: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    renewed: Option<Instant>,
    leaving: bool,
    /// Of shards that were lost: attempts that this process did not send, should it get the shard again before anybody settles them.
    unsent: BTreeMap<i64, Vec<u64>>,
    /// The same of shards that could not be handed over. They count under the same lease alone: if it was handed over after all, somebody else may
    /// have sent them.
    kept: BTreeMap<i64, (Fence, Vec<u64>)>,
}

impl Keeper {
    /// Arrives and takes what is this replica's, or nobody's. Its sagas are in memory when this returns.
    pub(crate) async fn start(
        engine: Engine,
        shards: Shards,
        readiness: Readiness,
    ) -> anyhow::Result<Self> {
        let lease = engine.options.lease;
        let keeper = Self(Arc::new(Inner {
            engine,
            shards,
            lease,
            state: Mutex::default(),
        }));
        let arriving = tokio::time::timeout(ARRIVE, keeper.0.shards.arrive());
        arriving
            .await
            .context("the database does not let this replica in: something holds its lock")?
            .context("this replica cannot be made known in the database")?;
        let engine = &keeper.0.engine;
        let taken = keeper.step(&mut *keeper.0.state.lock().await).await?;
        // Reading may take longer than a lease.
        engine.tasks.spawn_essential("leases", keeper.clone().run());
        engine
            .tasks
            .spawn_essential("readiness", keeper.clone().tell(readiness));
        for fence in taken {
            recovery::resume_shard(engine, fence).await?;
        }
        Ok(keeper)
    }

    /// Keeps going until the process stops.
    async fn run(self) {
        let Inner { engine, state, .. } = &*self.0;
        let token = engine.tasks.token();
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep(LOOK) => {}
                () = engine.ownership.news() => tokio::time::sleep(AT_MOST).await,
                () = token.cancelled() => return,
            }
            let stepped = self.step(&mut *state.lock().await).await;
            match stepped {
                Ok(taken) => {
                    for fence in taken {
                        engine
                            .tasks
                            .spawn_essential("resume-shard", self.clone().resume(fence));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "leases could not be renewed or looked at; it is tried again")
                }
            }
        }
    }

    /// Says whether this replica can do anything. Without a lease it cannot, and others can: it may be cut off from the database alone.
    async fn tell(self, readiness: Readiness) {
        let engine = &self.0.engine;
        let token = engine.tasks.token();
        let mut able = true;
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep(LOOK) => {}
                () = token.cancelled() => return,
            }
            let now = engine.ownership.may_release();
            if now != able {
                tracing::warn!(
                    able = now,
                    "the lease of this replica is over, or is held again"
                );
            }
            able = now;
            readiness.set_able(able);
        }
    }

    /// Reads a shard's sagas, however often that takes, while it is owned.
    async fn resume(self, fence: Fence) {
        let engine = &self.0.engine;
        let token = engine.tasks.token();
        while engine.ownership.fence(fence.shard) == Some(fence) {
            match recovery::resume_shard(engine, fence).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(shard = fence.shard, %error, "a shard could not be resumed; it is tried again")
                }
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(LOOK) => {}
                () = token.cancelled() => return,
            }
        }
    }

    /// One look around. Returns what was taken.
    async fn step(&self, state: &mut State) -> anyhow::Result<Vec<Fence>> {
        let Inner {
            engine,
            shards,
            lease,
            ..
        } = &*self.0;
        let ownership = &engine.ownership;
        let due = state
            .renewed
            .is_none_or(|renewed| renewed.elapsed() >= *lease / RENEWALS);
        let asked = due.then(|| ownership.now());
        if due && !shards.renew(state.leaving).await? {
            self.replaced();
            return Ok(Vec::new());
        }
        let mut standing = shards.look().await?;
        self.drop_lost(state, &standing);
        if let Some(asked) = asked {
            state.renewed = Some(asked.0);
            let stood_still = !ownership.may_release();
            // Less than the lease: what was decided in time must also have left in time.
            ownership.extend(asked, *lease * 4 / 5);
            if stood_still {
                engine.dispatch.with(|hub, _| hub.wake_all());
            }
        }
        let me = &shards.me().name;
        let mut new = Vec::new();
        if !state.leaving {
            let mut taken = Vec::new();
            if standing
                .leases
                .iter()
                .any(|free| standing.is_free(free, me))
            {
                taken = shards.take().await?;
                standing = shards.look().await?;
            }
            new = self.hold(state, &standing, taken);
            self.go_home(state, &standing).await;
        }
        self.publish(standing);
        Ok(new)
    }

    /// Forgets what others have taken.
    fn drop_lost(&self, state: &mut State, standing: &Standing) {
        let engine = &self.0.engine;
        for fence in engine.ownership.held() {
            if !standing.leases.iter().any(|lease| is(lease, fence)) {
                tracing::warn!(
                    shard = fence.shard,
                    epoch = fence.epoch,
                    "a shard was taken over by another replica"
                );
                engine.ownership.lose(fence);
            }
        }
        // The committer may have noticed first.
        engine.dispatch.with(|hub, _| {
            for shard in hub.shards_held() {
                if engine.ownership.fence(shard).is_none() {
                    let unsent = hub.forget(shard);
                    state.unsent.insert(shard, unsent);
                }
            }
        });
    }

    /// Holds everything that is this process's by now, whether or not the answer that said so arrived.
    fn hold(&self, state: &mut State, standing: &Standing, taken: Vec<Taken>) -> Vec<Fence> {
        let engine = &self.0.engine;
        let mut new = Vec::new();
        for lease in standing.leases.iter().filter(|lease| lease.mine) {
            let fence = Fence {
                shard: lease.shard,
                epoch: lease.epoch,
            };
            if lease.home == self.0.shards.me().name {
                engine.ownership.set_home(lease.shard);
            }
            if engine.ownership.fence(fence.shard) == Some(fence) {
                continue;
            }
            let handed = taken.iter().find(|taken| taken.fence == fence);
            let handed = handed.and_then(|taken| taken.handed.as_deref());
            tracing::info!(
                shard = fence.shard,
                epoch = fence.epoch,
                home = lease.home,
                handed = handed.is_some(),
                "took a shard"
            );
            // What memory still has from an earlier lease may have missed something meanwhile. It did not send what it says it did not.
            let mut unsent = tokens(handed.unwrap_or_default());
            unsent.extend(state.unsent.remove(&fence.shard).unwrap_or_default());
            let kept = state.kept.remove(&fence.shard);
            unsent.extend(
                kept.filter(|kept| kept.0 == fence)
                    .into_iter()
                    .flat_map(|kept| kept.1),
            );
            engine.dispatch.with(|hub, _| {
                unsent.extend(hub.forget(fence.shard));
                hub.hold(fence.shard, unsent);
            });
            engine.ownership.hold(fence);
            new.push(fence);
        }
        new
    }

    /// Gives shards back whose home is there again.
    async fn go_home(&self, state: &mut State, standing: &Standing) {
        let me = &self.0.shards.me().name;
        for lease in standing.leases.iter().filter(|lease| lease.mine) {
            if lease.home != *me && standing.stays(&lease.home) {
                self.hand_over(state, lease.shard).await;
            }
        }
    }

    /// Lets a shard go, with nothing of it under way here.
    async fn hand_over(&self, state: &mut State, shard: i64) {
        let Inner { engine, shards, .. } = &*self.0;
        let Some(fence) = engine.ownership.fence(shard) else {
            return;
        };
        // Nothing is decided any more; what was decided becomes durable and is seen; then what was never sent is known.
        engine.ownership.lose(fence);
        engine.flush().await;
        let unsent = engine.dispatch.with(|hub, _| hub.forget(shard));
        match shards.release(fence, &bytes(&unsent)).await {
            Ok(_) => {
                tracing::info!(shard, unsent = unsent.len(), "handed a shard over")
            }
            // It is still this process's, then, and the next look takes it in again; or the lease runs out.
            Err(error) => {
                state.kept.insert(shard, (fence, unsent));
                tracing::warn!(shard, %error, "a shard could not be handed over");
            }
        }
    }

    /// Hands everything over, if there is anybody to take it; otherwise this process keeps it until it ends.
    pub(crate) async fn drain(&self) {
        let Inner { engine, shards, .. } = &*self.0;
        let mut state = self.0.state.lock().await;
        if std::mem::replace(&mut state.leaving, true) {
            return;
        }
        state.renewed = None;
        if let Err(error) = self.step(&mut state).await {
            tracing::warn!(%error, "the others could not be told that this replica leaves");
            return;
        }
        let me = &shards.me().name;
        let standing = engine.ownership.standing();
        let mut others = standing.members.iter();
        if !others.any(|(other, leaving)| other.name != *me && !leaving) {
            return;
        }
        for fence in engine.ownership.held() {
            self.hand_over(&mut state, fence.shard).await;
        }
    }

    /// Owns nothing any more.
    pub(crate) async fn leave(&self) {
        let Inner { engine, shards, .. } = &*self.0;
        let leaving = async {
            self.drain().await;
            // Nothing is decided any more that would be written after this replica has said that it is gone.
            for fence in engine.ownership.held() {
                engine.ownership.lose(fence);
            }
            engine.flush().await;
            shards.leave().await
        };
        let left = tokio::time::timeout(LEAVE, leaving).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::warn!(
                ?left,
                "this replica could not say that it leaves: others wait for its leases to run out"
            );
        }
    }

    /// Another process runs under this replica's name: this one has nothing to do any more.
    fn replaced(&self) {
        let engine = &self.0.engine;
        tracing::error!(
            replica = self.0.shards.me().name,
            "another process runs under the name of this replica and has taken over; this one stops. Give every replica its own SAGAMESH_REPLICA"
        );
        for fence in engine.ownership.held() {
            engine.ownership.lose(fence);
            engine.dispatch.with(|hub, _| hub.forget(fence.shard));
        }
        engine.tasks.begin_drain();
    }

    /// Makes known who is there.
    fn publish(&self, standing: Standing) {
        let engine = &self.0.engine;
        let members = standing.members.iter().map(|(member, _)| &member.address);
        let peers: Vec<String> = members
            .filter(|address| !address.is_empty())
            .cloned()
            .collect();
        metrics::gauge!("saga_replicas").set(standing.members.len() as f64);
        metrics::gauge!("saga_shards_owned").set(engine.ownership.held().len() as f64);
        engine.ownership.set_standing(standing);
        engine.dispatch.with(|hub, _| hub.set_peers(peers));
    }
}

fn is(lease: &ledger::Lease, fence: Fence) -> bool {
    lease.mine && lease.shard == fence.shard && lease.epoch == fence.epoch
}

/// Lease tokens of attempts, as they are left for the next owner.
fn bytes(tokens: &[u64]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|token| token.to_be_bytes())
        .collect()
}

fn tokens(bytes: &[u8]) -> HashSet<u64> {
    let (tokens, _) = bytes.as_chunks::<8>();
    tokens
        .iter()
        .map(|token| u64::from_be_bytes(*token))
        .collect()
}
