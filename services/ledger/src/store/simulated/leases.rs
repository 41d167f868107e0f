//! Owners and leases on a simulated database, as rows: the rules that `ledger_take` and `ledger_append` have in PostgreSQL.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::shards::Owner;
use crate::{Fence, Lease, Member, Standing, Taken};

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

    /// Whether an owner is there.
    pub(super) fn is_present(&self, name: &str) -> bool {
        self.present(name, Instant::now()).is_some()
    }

    /// Who owns a shard.
    fn owner_of<'a>(&self, shard: &'a ShardRow, now: Instant) -> Option<&'a str> {
        let (name, session) = shard.owner.as_ref()?;
        let row = self.present(name, now)?;
        (row.session == *session).then_some(name)
    }

    /// A process goes. Returns the shards that it owned.
    pub(super) fn leave(&mut self, me: &Owner) -> Vec<i64> {
        if self.mine(me).is_none() {
            return Vec::new();
        }
        self.owners.remove(&me.member.name);
        self.shards_of(&me.member.name, &me.session, true)
    }

    /// Another lease for a process. False if its name is another one's.
    pub(super) fn renew(&mut self, me: &Owner, leaving: bool, expires: Instant) -> bool {
        let row = self.mine(me);
        let renewed = row.map(|row| (row.draining, row.expires) = (leaving, expires));
        renewed.is_some()
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
    pub(super) fn arrive(&mut self, me: &Owner, expires: Instant) -> Vec<i64> {
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

    pub(super) fn standing(&self, me: &Owner, now: Instant) -> Standing {
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
    pub(super) fn free(&self, me: &Owner, now: Instant) -> Vec<i64> {
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

    pub(super) fn take(&mut self, me: &Owner, shard: i64, head: u64, raise: bool) -> Option<Taken> {
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

    pub(super) fn release(&mut self, me: &Owner, fence: Fence, handed: &[u8]) -> bool {
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
