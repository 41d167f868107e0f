//! Owners and leases on a simulated database, under the rules that `ledger_take` and `ledger_append` have in PostgreSQL.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Disk, Mistake, SimulatedDisk};
use crate::shards::{LeaseTable, Owner};
use crate::store::BoxFuture;
use crate::{Error, Fence, Lease, Member, Standing, Taken};

/// The two tables.
#[derive(Default)]
pub(super) struct Leases {
    owners: BTreeMap<String, OwnerRow>,
    /// By shard.
    shards: Vec<ShardRow>,
}

struct OwnerRow {
    session: String,
    address: String,
    draining: bool,
    expires: Instant,
}

struct ShardRow {
    home: String,
    /// Name and session.
    owner: Option<(String, String)>,
    epoch: i64,
    handed: Option<Vec<u8>>,
}

impl Leases {
    /// An owner's row, if it has not expired.
    fn present(&self, name: &str, now: Instant) -> Option<&OwnerRow> {
        self.owners.get(name).filter(|row| row.expires > now)
    }

    /// Who owns a shard.
    fn owner_of<'a>(&self, shard: &'a ShardRow, now: Instant) -> Option<&'a str> {
        let (name, session) = shard.owner.as_ref()?;
        let row = self.present(name, now)?;
        (row.session == *session).then_some(name)
    }

    fn row(&self, shard: i64) -> Option<&ShardRow> {
        self.shards.get(usize::try_from(shard).ok()?)
    }

    pub(super) fn owner(&self, shard: i64) -> Option<&str> {
        self.owner_of(self.row(shard)?, Instant::now())
    }

    pub(super) fn expire(&mut self, name: &str) {
        if let Some(row) = self.owners.get_mut(name) {
            row.expires = Instant::now();
        }
    }

    /// Those of the leases that do not hold, by shard.
    pub(super) fn lost(&self, fences: &[Fence], now: Instant) -> Vec<i64> {
        let holds = |fence: &&Fence| {
            self.row(fence.shard).is_some_and(|shard| {
                shard.epoch == fence.epoch && self.owner_of(shard, now).is_some()
            })
        };
        let lost = fences.iter().filter(|fence| !holds(fence));
        lost.map(|fence| fence.shard).collect()
    }

    /// Returns the shards that an earlier process of this name owned until now.
    fn arrive(&mut self, me: &Owner, expires: Instant) -> Vec<i64> {
        let name = &me.member.name;
        let lost = self.shards_of(name, &me.session, false);
        let row = OwnerRow {
            session: me.session.clone(),
            address: me.member.address.clone(),
            draining: false,
            expires,
        };
        self.owners.insert(name.clone(), row);
        if !self.shards.iter().any(|shard| shard.home == *name) {
            self.shards.push(ShardRow {
                home: name.clone(),
                owner: None,
                epoch: 0,
                handed: None,
            });
        }
        lost
    }

    /// Shards of this process, or of others of its name.
    fn shards_of(&self, name: &str, session: &str, own: bool) -> Vec<i64> {
        let of = |shard: &ShardRow| {
            let owner = shard.owner.as_ref();
            owner.is_some_and(|owner| owner.0 == name && (owner.1 == session) == own)
        };
        let shards = (0..).zip(&self.shards).filter(|(_, shard)| of(shard));
        shards.map(|(number, _)| number).collect()
    }

    /// The row of this process, if no other one has taken its name.
    fn mine(&mut self, me: &Owner) -> Option<&mut OwnerRow> {
        let row = self.owners.get_mut(&me.member.name);
        row.filter(|row| row.session == me.session)
    }

    fn standing(&self, me: &Owner, now: Instant) -> Standing {
        let present = self.owners.iter().filter(|(_, row)| row.expires > now);
        let members = present.map(|(name, row)| {
            let member = Member {
                name: name.clone(),
                address: row.address.clone(),
            };
            (member, row.draining)
        });
        let is_mine = |shard: &ShardRow| {
            let owner = shard.owner.as_ref();
            owner.is_some_and(|(name, session)| *name == me.member.name && *session == me.session)
        };
        let leases = (0..).zip(&self.shards).map(|(number, shard)| Lease {
            shard: number,
            home: shard.home.clone(),
            owner: self.owner_of(shard, now).map(str::to_owned),
            epoch: shard.epoch,
            mine: is_mine(shard),
        });
        Standing {
            members: members.collect(),
            leases: leases.collect(),
        }
    }

    /// Shards that nobody owns, except those whose home is there to take them itself.
    fn free(&self, me: &Owner, now: Instant) -> Vec<i64> {
        let name = &me.member.name;
        let row = self.present(name, now);
        if row.is_none_or(|row| row.session != me.session || row.draining) {
            return Vec::new();
        }
        let stays = |name: &str| self.present(name, now).is_some_and(|row| !row.draining);
        let is_free = |shard: &ShardRow| {
            self.owner_of(shard, now).is_none() && (shard.home == *name || !stays(&shard.home))
        };
        let shards = (0..).zip(&self.shards).filter(|(_, shard)| is_free(shard));
        shards.map(|(number, _)| number).collect()
    }

    fn take(&mut self, me: &Owner, shard: i64, head: u64, raise: bool) -> Option<Taken> {
        let row = self.shards.get_mut(usize::try_from(shard).ok()?)?;
        row.owner = Some((me.member.name.clone(), me.session.clone()));
        row.epoch += i64::from(raise || row.epoch == 0);
        Some(Taken {
            fence: Fence {
                shard,
                epoch: row.epoch,
            },
            handed: row.handed.take(),
            head,
        })
    }

    fn release(&mut self, me: &Owner, fence: Fence, handed: &[u8]) -> bool {
        let row = usize::try_from(fence.shard)
            .ok()
            .and_then(|shard| self.shards.get_mut(shard));
        let is_mine = |row: &ShardRow| {
            let owner = row.owner.as_ref();
            owner.is_some_and(|(_, session)| *session == me.session) && row.epoch == fence.epoch
        };
        let Some(row) = row.filter(|row| is_mine(row)) else {
            return false;
        };
        row.owner = None;
        row.handed = Some(handed.to_vec());
        true
    }
}

/// Leases, as one process reaches them.
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
            let expired = |disk: &Disk| {
                let present = disk.leases.present(&me.member.name, Instant::now());
                present.is_none()
            };
            let renew = |leases: &mut Leases| {
                let expires = self.expires(me);
                let row = leases.mine(me);
                let renewed = row.map(|row| (row.draining, row.expires) = (leaving, expires));
                renewed.is_some()
            };
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
            let leave = |leases: &mut Leases| {
                leases.mine(me)?;
                leases.owners.remove(&me.member.name);
                Some(leases.shards_of(&me.member.name, &me.session, true))
            };
            let left = self.write("DELETE ledger_owners", |_| false, leave).await?;
            self.owns(&left.unwrap_or_default(), None);
            self.0.answer(None).await
        })
    }
}
