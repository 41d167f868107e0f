//! Requests for what another replica owns: handed on to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chassis::{Env, PeerChannel, Problem};
use ledger::{Member, Standing};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};

use crate::engine::Engine;
use crate::problems::ERRORS;

/// Says how many replicas a request has come through.
const HOPS: &str = "sagamesh-hops";
/// A shard may move while a request is on its way, but it does not run after it for ever.
const MOST_HOPS: u32 = 2;
/// When to try again what met a shard that was changing hands.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Sagas are larger than gRPC's default allows for answers.
pub(crate) const MOST_BYTES: usize = 64 << 20;

/// How many replicas a request has come through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hops(u32);

impl Hops {
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let hops = request.metadata().get(HOPS);
        let hops = hops.and_then(|hops| hops.to_str().ok()?.parse().ok());
        Self(hops.unwrap_or(0))
    }
}

/// Channels to the other replicas, by address. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    env: Env,
    channels: Arc<Mutex<BTreeMap<String, PeerChannel>>>,
}

impl Peers {
    pub(crate) fn new(env: &Env) -> Self {
        Self {
            env: env.clone(),
            channels: Arc::default(),
        }
    }

    fn channel(&self, address: &str) -> PeerChannel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = channels
            .entry(address.to_owned())
            .or_insert_with(|| chassis::channel(&self.env, address));
        channel.clone()
    }
}

impl Engine {
    /// A channel to the replica that owns a shard.
    pub(crate) async fn owner(&self, shard: i64, hops: Hops) -> Result<PeerChannel, Problem> {
        self.reach(hops, |standing| {
            standing.member(standing.owner(shard)?).cloned()
        })
        .await
    }

    /// A channel to a replica that can start sagas, which this one cannot just now.
    pub(crate) async fn starter(&self, hops: Hops) -> Result<PeerChannel, Problem> {
        self.reach(hops, |standing| {
            let at_home = standing.leases.iter().find(|lease| {
                let owner = lease.owner.as_deref().unwrap_or_default();
                owner == lease.home && standing.stays(owner) && owner != self.options.replica
            });
            standing.member(&at_home?.home).cloned()
        })
        .await
    }

    async fn reach(
        &self,
        hops: Hops,
        find: impl Fn(&Standing) -> Option<Member>,
    ) -> Result<PeerChannel, Problem> {
        let mut owner = find(&self.ownership.standing());
        if owner
            .as_ref()
            .is_none_or(|owner| owner.name == self.options.replica)
        {
            self.ownership.look_again().await;
            owner = find(&self.ownership.standing());
        }
        match owner {
            Some(owner) if owner.name != self.options.replica && hops.0 < MOST_HOPS => {
                if owner.address.is_empty() {
                    let message = format!(
                        "replica {:?} of the coordinator has to answer this, and has no address: set SAGAMESH_REPLICA_ADDRESS for every replica",
                        owner.name
                    );
                    return Err(ERRORS.problem(Code::Internal, "REPLICA_WITHOUT_ADDRESS", message));
                }
                Ok(self.peers.channel(&owner.address))
            }
            _ => Err(moving()),
        }
    }

    /// What the owner of a shard answers. One that stands still is not waited for longer than its lease.
    pub(crate) async fn forwarded<T>(
        &self,
        shard: i64,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        let moved = self.ownership.moved(shard);
        tokio::select! {
            biased;
            answered = call => answer(answered),
            () = moved => Err(moving().into()),
        }
    }
}

/// The same request, for another replica.
pub(crate) fn onward<T>(message: T, hops: Hops) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(HOPS, MetadataValue::from(hops.0 + 1));
    request
}

/// The other replica's answer. If it did not say anything itself, it is about to be replaced.
fn answer<T>(answer: Result<Response<T>, Status>) -> Result<Response<T>, Status> {
    let answer = answer.map(|response| Response::new(response.into_inner()));
    answer.map_err(|status| {
        if status.code() == Code::Unavailable && status.details().is_empty() {
            return moving().into();
        }
        Status::with_details(
            status.code(),
            status.message(),
            status.details().to_vec().into(),
        )
    })
}

/// Nobody owns the shard just now.
pub(crate) fn moving() -> Problem {
    let message = "the saga is changing hands between replicas of the coordinator: try again, the same request is safe to repeat";
    ERRORS
        .problem(Code::Unavailable, "SHARD_MOVING", message)
        .retry_after(RETRY_AFTER)
}
