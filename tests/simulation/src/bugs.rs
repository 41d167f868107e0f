//! Bugs that are planted on purpose: each must be found by the promises within a few hundred seeds. Those of leases are mistakes of
//! the simulated database; all others are wrappers around the real thing, made here.

pub mod decisions;
pub mod hasty;
pub mod streams;

use coordinator::decider::Decide;
use coordinator::saga;
use ledger::Mistake;

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Bug {
    /// Participants act without the barrier.
    NoBarrier,
    /// The barrier does not record that a compensation found nothing to undo.
    NoVoid,
    /// A participant answers before its commit.
    AnswerBeforeCommit,
    /// The coordinator acknowledges a start before its commit.
    AcknowledgeBeforeCommit,
    /// A result counts whatever its lease token.
    NoLeaseCheck,
    /// Compensations run in the order in which the steps started.
    CompensateInStartOrder,
    /// An outcome that is not known is taken for a no.
    UnknownIsNo,
    /// A timer that fires is lost now and then.
    LoseTimer,
    /// Actions are sent again after the abort.
    ForwardAfterAbort,
    /// A step is undone once the pivot was sent.
    UndoAfterPivot,
    /// A watcher that comes back misses an event.
    WatchWithGap,
    /// The database writes whatever the epoch under which it was decided.
    ForgetEpoch,
    /// A shard that is taken over keeps its epoch.
    KeepEpoch,
    /// Commands are sent although the lease is over: leases end sooner than those who have them think.
    ReleaseAfterLease,
}

impl Bug {
    /// Every bug, and the promises that may notice it.
    pub const ALL: [(Bug, &'static [u8]); 14] = [
        (Bug::NoBarrier, &[6]),
        (Bug::NoVoid, &[6]),
        (Bug::AnswerBeforeCommit, &[6]),
        (Bug::AcknowledgeBeforeCommit, &[1]),
        (Bug::NoLeaseCheck, &[7]),
        (Bug::CompensateInStartOrder, &[4]),
        (Bug::UnknownIsNo, &[5, 6]),
        (Bug::LoseTimer, &[8]),
        (Bug::ForwardAfterAbort, &[3]),
        (Bug::UndoAfterPivot, &[5]),
        (Bug::WatchWithGap, &[9]),
        (Bug::ForgetEpoch, &[7]),
        (Bug::KeepEpoch, &[7]),
        (Bug::ReleaseAfterLease, &[7]),
    ];

    /// Whether it takes several replicas to have it.
    pub fn needs_replicas(self) -> bool {
        mistake(self).is_some()
    }
}

/// How the coordinator decides.
pub fn decide(bug: Option<Bug>) -> Decide {
    match bug {
        Some(Bug::NoLeaseCheck) => decisions::without_lease_check,
        Some(Bug::CompensateInStartOrder) => decisions::in_start_order,
        Some(Bug::UnknownIsNo) => decisions::unknown_is_no,
        Some(Bug::LoseTimer) => decisions::losing_timers,
        _ => saga::decide,
    }
}

/// What the database of the coordinator's replicas does wrong.
pub fn mistake(bug: Bug) -> Option<Mistake> {
    match bug {
        Bug::ForgetEpoch => Some(Mistake::ForgetsLeases),
        Bug::KeepEpoch => Some(Mistake::KeepsEpochs),
        Bug::ReleaseAfterLease => Some(Mistake::EndsLeasesEarly),
        _ => None,
    }
}
