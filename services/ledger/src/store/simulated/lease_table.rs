//! Leases on a simulated database, as one process reaches them: over the network, in turn with whoever else writes, and durable once synced.

use tokio::time::Instant;

use super::disk::Disk;
use super::leases::Leases;
use super::{Mistake, SimulatedDisk};
use crate::shards::{LeaseTable, Owner};
use crate::store::BoxFuture;
use crate::{Error, Fence, Standing, Taken};

/// See the module's documentation.
pub(super) struct SimulatedLeases(pub(super) SimulatedDisk);

impl SimulatedLeases {
    /// Writes, once that is durable. It waits for its turn before, if it needs one.
    async fn write<T>(
        &self,
        statement: &'static str,
        in_turn: impl FnOnce(&Disk) -> bool,
        write: impl FnOnce(&mut Leases) -> T,
    ) -> Result<T, Error> {
        let life = self.0.bring(None).await?;
        let in_turn = in_turn(&*self.0.at(life)?);
        let _turn = match in_turn {
            true => Some(self.0.turn(statement).await),
            false => None,
        };
        self.0.synced(statement).await;
        let mut disk = self.0.at(life)?;
        if disk.full {
            return Err(full());
        }
        Ok(write(&mut disk.leases))
    }

    fn expires(&self, me: &Owner) -> Instant {
        let lease = match self.0.mistake() {
            Some(Mistake::EndsLeasesEarly) => me.lease / 5,
            _ => me.lease,
        };
        Instant::now() + lease
    }

    fn owns(&self, shards: &[i64], epoch: Option<i64>) {
        if let Some(script) = &self.0.script {
            shards.iter().for_each(|shard| script.owns(*shard, epoch));
        }
    }
}

fn full() -> Error {
    Error::Full {
        database: "the simulated database".into(),
    }
}

impl LeaseTable for SimulatedLeases {
    fn arrive<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let arrive = |leases: &mut Leases| leases.arrive(me, self.expires(me));
            let lost = self.write("INSERT ledger_owners", |_| true, arrive).await?;
            self.owns(&lost, None);
            self.0.answer(None).await
        })
    }

    fn renew<'a>(&'a self, me: &'a Owner, leaving: bool) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            // A takeover locks the rows of those that have expired.
            let expired = |disk: &Disk| !disk.leases.is_present(&me.member.name);
            let renew = |leases: &mut Leases| leases.renew(me, leaving, self.expires(me));
            let renewed = self.write("UPDATE ledger_owners", expired, renew).await?;
            self.0.answer(None).await?;
            Ok(renewed)
        })
    }

    fn look<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<Standing, Error>> {
        Box::pin(
            self.0
                .ask(move |disk| disk.leases.standing(me, Instant::now())),
        )
    }

    fn take<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<Vec<Taken>, Error>> {
        Box::pin(async move {
            let life = self.0.bring(None).await?;
            let turn = self.0.turn("ledger_take").await;
            let free = self.0.at(life)?.leases.free(me, Instant::now());
            if !free.is_empty() {
                self.0.synced("ledger_take").await;
            }
            let mut taken = Vec::new();
            {
                let mut disk = self.0.at(life)?;
                if disk.full && !free.is_empty() {
                    return Err(full());
                }
                let head = disk.log.len() as u64;
                let raise = self.0.mistake() != Some(Mistake::KeepsEpochs);
                let take = |shard| disk.leases.take(me, shard, head, raise);
                taken.extend(free.into_iter().filter_map(take));
            }
            for Taken { fence, .. } in &taken {
                self.owns(&[fence.shard], Some(fence.epoch));
            }
            drop(turn);
            self.0.answer(None).await?;
            if let (Some(script), Some(taken)) = (&self.0.script, taken.first()) {
                script.known(taken.head);
            }
            Ok(taken)
        })
    }

    fn release<'a>(
        &'a self,
        me: &'a Owner,
        fence: Fence,
        handed: &'a [u8],
    ) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let release = |leases: &mut Leases| leases.release(me, fence, handed);
            let released = self
                .write("UPDATE ledger_leases", |_| true, release)
                .await?;
            if released {
                self.owns(&[fence.shard], None);
            }
            self.0.answer(None).await?;
            Ok(released)
        })
    }

    fn leave<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let leave = |leases: &mut Leases| leases.leave(me);
            let left = self.write("DELETE ledger_owners", |_| false, leave).await?;
            self.owns(&left, None);
            self.0.answer(None).await
        })
    }
}
