//! What a simulation decides about a disk, and what it sees of it.

use std::time::Duration;

use crate::Recorded;
use crate::store::BoxFuture;

/// What goes wrong with a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and has not taken.
    BeforeTaking,
    /// It takes, and its answer is lost.
    AfterTaking,
}

/// How one commit goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fate {
    /// How long until it takes.
    pub before: Duration,
    /// How long from then until it is answered.
    pub after: Duration,
    /// What goes wrong.
    pub fault: Option<Fault>,
}

/// Decides how commits go, and sees them. Tables and queries of such a disk take no time at all, and nothing else runs meanwhile: a simulation runs
/// the same way each time.
pub trait DiskScript: Send + Sync {
    /// A batch is about to be written.
    fn begin(&self) -> Fate;
    /// These events are durable, and visible to whoever reads the disk.
    fn taken(&self, events: &[Recorded]);
    /// The ledger that wrote them learns that everything up to this position is durable.
    fn known(&self, position: u64);
    /// A request is on its way to a database, or its answer `back`. False if it never arrives.
    fn travel(&self, _back: bool) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }
    /// This process owns a shard of the database from now on, under this epoch; or, with none, neither it nor an earlier one of its name does any more.
    fn owns(&self, _shard: i64, _epoch: Option<i64>) {}
    /// What the database does wrong about leases, in a test that wants this to be noticed.
    fn mistake(&self) -> Option<Mistake> {
        None
    }
}

/// What a database can do wrong about leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// It writes without a look at the leases under which batches were decided.
    ForgetsLeases,
    /// Whoever takes a shard gets the epoch of its last owner.
    KeepsEpochs,
    /// Leases last a fifth of what those who have them think.
    EndsLeasesEarly,
}

/// Waits, unless there is nothing to wait for.
pub(super) async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
