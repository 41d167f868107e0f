//! Shards with owners: which process of several may write to which streams.
//!
//! An owner renews one row; its shards are its own until that row expires, by the database's clock. Taking a shard raises its epoch, and
//! [every append](crate::Fence) checks the epoch in the statement that writes. So a process that stood still, or was cut off, cannot write to what it
//! has lost, whatever it believes.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::log::Log;
use crate::store::BoxFuture;
use crate::{Error, Fence};

/// A replica: the name that its process runs under, and where others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name. A process takes over from an earlier one of the same name at once.
    pub name: String,
    /// Its address; empty if others cannot reach it.
    pub address: String,
}

/// What a process has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The shard, and its new epoch.
    pub fence: Fence,
    /// What its last owner left when it handed it over; `None` if it did not.
    pub handed: Option<Vec<u8>>,
    /// The newest position of the log before this.
    pub head: u64,
}

/// A shard as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: i64,
    /// The replica that it was made for.
    pub home: String,
    /// Who owns it now; `None` while nobody does.
    pub owner: Option<String>,
    /// How often it changed hands.
    pub epoch: i64,
    /// Whether the owner is this very process.
    pub mine: bool,
}

/// Who is there and who owns what, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Replicas that are there, by name; this one included. The second of each pair says whether it is about to go.
    pub members: Vec<(Member, bool)>,
    /// All shards.
    pub leases: Vec<Lease>,
}

impl Standing {
    /// A replica that is there.
    pub fn member(&self, name: &str) -> Option<&Member> {
        let mut members = self.members.iter().map(|(member, _)| member);
        members.find(|member| member.name == name)
    }

    /// Whether a replica is there to stay.
    pub fn stays(&self, name: &str) -> bool {
        self.members
            .iter()
            .any(|(member, leaving)| member.name == name && !leaving)
    }

    /// Who owns a shard.
    pub fn owner(&self, shard: i64) -> Option<&str> {
        let mut leases = self.leases.iter();
        leases.find(|lease| lease.shard == shard)?.owner.as_deref()
    }

    /// Whether there is something for this replica to take.
    pub fn is_free(&self, lease: &Lease, me: &str) -> bool {
        lease.owner.is_none() && (lease.home == me || !self.stays(&lease.home))
    }
}

/// A process among those that own shards.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    /// The replica that it is.
    pub(crate) member: Member,
    /// Tells it from other processes of the same name.
    pub(crate) session: String,
    /// How long it owns what it has without a sign of life.
    pub(crate) lease: Duration,
}

/// Where owners and leases are kept: beside the log, so that an append can check them. Each call is one transaction; see [`Shards`] for what they do.
pub(crate) trait LeaseTable: Send + Sync {
    fn arrive<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<(), Error>>;
    fn renew<'a>(&'a self, me: &'a Owner, leaving: bool) -> BoxFuture<'a, Result<bool, Error>>;
    fn look<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<Standing, Error>>;
    fn take<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<Vec<Taken>, Error>>;
    fn release<'a>(
        &'a self,
        me: &'a Owner,
        fence: Fence,
        handed: &'a [u8],
    ) -> BoxFuture<'a, Result<bool, Error>>;
    fn leave<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<(), Error>>;
}

/// The shards of a log, as one process deals with them. Dropping it gives nothing back.
pub struct Shards {
    table: Arc<dyn LeaseTable>,
    log: Arc<Log>,
    me: Owner,
}

impl Shards {
    pub(crate) fn new(
        table: Arc<dyn LeaseTable>,
        log: Arc<Log>,
        member: Member,
        lease: Duration,
    ) -> Self {
        let me = Owner {
            member,
            session: Uuid::now_v7().to_string(),
            lease,
        };
        Self { table, log, me }
    }

    /// This replica.
    pub fn me(&self) -> &Member {
        &self.me.member
    }

    /// Arrives: from now on an earlier process of this name owns nothing, and there is a shard whose home this is.
    pub async fn arrive(&self) -> Result<(), Error> {
        self.table.arrive(&self.me).await
    }

    /// Keeps what this process owns for another lease. False if another process runs under this name now: then this one owns nothing.
    pub async fn renew(&self, leaving: bool) -> Result<bool, Error> {
        self.table.renew(&self.me, leaving).await
    }

    /// Who is there and who owns what.
    pub async fn look(&self) -> Result<Standing, Error> {
        self.table.look(&self.me).await
    }

    /// Takes every shard that nobody owns and whose home is this replica, or is not there.
    pub async fn take(&self) -> Result<Vec<Taken>, Error> {
        let taken = self.table.take(&self.me).await?;
        // Whoever takes a shard must see all that was written before.
        let head = taken.iter().map(|taken| taken.head).max();
        self.log.advance(head.unwrap_or(0));
        Ok(taken)
    }

    /// Gives a shard up, and leaves `handed` for whoever takes it. False if it was lost before.
    pub async fn release(&self, fence: Fence, handed: &[u8]) -> Result<bool, Error> {
        self.table.release(&self.me, fence, handed).await
    }

    /// Goes, at once, with whatever this process still owns.
    pub async fn leave(&self) -> Result<(), Error> {
        self.table.leave(&self.me).await
    }
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shards")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}
