//! The legal transitions of a step: one match.

use sagamesh_api::saga::v1::{Direction, Phase};

/// Where a step stands, as the machine sees it. `Lapsed` and `UndoLapsed` exist only between two transitions of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepPhase {
    /// Its predecessors are not done.
    Pending,
    /// A delay or signal is awaited.
    Waiting,
    /// An attempt of the action is owed or under way.
    Running,
    /// The newest attempt of the action ended without settling the step.
    Lapsed,
    /// The next attempt of the action waits for its time.
    BackingOff,
    /// The action waits for an operator.
    Parked,
    /// Done.
    Succeeded,
    /// Surely not done.
    Rejected,
    /// Perhaps done; the saga is being undone.
    Unknown,
    /// After the pivot: given up by an operator, counts as done.
    Skipped,
    /// The saga was aborted before.
    NotStarted,
    /// An attempt of the compensation is owed or under way.
    Compensating,
    /// The newest attempt of the compensation ended without settling it.
    UndoLapsed,
    /// The next attempt of the compensation waits for its time.
    UndoBackingOff,
    /// The compensation waits for an operator.
    UndoParked,
    /// Undone.
    Compensated,
    /// Its compensation was given up by an operator.
    Leftover,
}

impl StepPhase {
    /// Every phase.
    pub const ALL: [StepPhase; 17] = [
        StepPhase::Pending,
        StepPhase::Waiting,
        StepPhase::Running,
        StepPhase::Lapsed,
        StepPhase::BackingOff,
        StepPhase::Parked,
        StepPhase::Succeeded,
        StepPhase::Rejected,
        StepPhase::Unknown,
        StepPhase::Skipped,
        StepPhase::NotStarted,
        StepPhase::Compensating,
        StepPhase::UndoLapsed,
        StepPhase::UndoBackingOff,
        StepPhase::UndoParked,
        StepPhase::Compensated,
        StepPhase::Leftover,
    ];
}

/// What a transition does to one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// An attempt is released.
    Dispatch(Direction),
    /// The newest attempt succeeded; or the delay is over, or the signal came.
    Succeed(Direction),
    /// The newest attempt was rejected.
    Reject(Direction),
    /// The newest attempt surely did nothing.
    Fail(Direction),
    /// The newest attempt ended without a definite outcome.
    Lose(Direction),
    /// A result that does not count came.
    Supersede(Direction),
    /// The next attempt waits.
    Backoff(Direction),
    /// A delay or signal is awaited.
    Wait,
    /// It waits for an operator.
    Park(Direction),
    /// It takes long.
    Stall,
    /// The saga is aborted.
    Abort,
    /// An operator wants another attempt.
    Retry(Direction),
    /// An operator gives it up.
    Skip(Direction),
    /// An operator saw that it happened.
    ResolveSucceeded(Direction),
    /// An operator saw that it did not happen.
    ResolveRejected(Direction),
}

/// What else decides where a step goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// Its phase in the definition.
    pub role: Phase,
    /// The saga is being undone.
    pub aborting: bool,
    /// At least one attempt of the action, this change included, may have happened without our knowing.
    pub tainted: bool,
}

impl Facts {
    /// Where a step comes to rest whose action did not succeed.
    fn settled(self) -> StepPhase {
        if self.tainted && self.role == Phase::Compensatable {
            StepPhase::Unknown
        } else {
            StepPhase::Rejected
        }
    }

    fn before_pivot(self) -> bool {
        matches!(self.role, Phase::Compensatable | Phase::ReadOnly)
    }

    /// Where a rejected action goes from `phase`. Once one attempt of the pivot may have happened, a rejection of another one no longer
    /// settles it.
    fn rejected(self, phase: StepPhase) -> StepPhase {
        match self.role {
            Phase::Pivot if !self.tainted => StepPhase::Rejected,
            Phase::Pivot | Phase::Retriable if phase == StepPhase::Parked => StepPhase::Parked,
            Phase::Pivot | Phase::Retriable => StepPhase::Lapsed,
            _ => self.settled(),
        }
    }
}

/// The phase after `change`, or `None` where it is illegal.
pub fn next(phase: StepPhase, change: Change, facts: Facts) -> Option<StepPhase> {
    use Change as C;
    use Direction::{Action, Compensation};
    use StepPhase as P;

    let undoable = facts.role == Phase::Compensatable;
    Some(match (phase, change) {
        // Forward.
        (P::Pending | P::Lapsed | P::BackingOff, C::Dispatch(Action)) if !facts.aborting => {
            P::Running
        }
        (P::Pending, C::Wait)
            if !facts.aborting && matches!(facts.role, Phase::ReadOnly | Phase::Retriable) =>
        {
            P::Waiting
        }
        (P::Waiting | P::Running | P::BackingOff | P::Parked | P::Unknown, C::Succeed(Action)) => {
            P::Succeeded
        }
        (P::Running | P::BackingOff | P::Parked | P::Unknown, C::Reject(Action)) => {
            facts.rejected(phase)
        }
        (P::Running, C::Fail(Action) | C::Lose(Action)) if facts.aborting => facts.settled(),
        (P::Running, C::Fail(Action) | C::Lose(Action)) => P::Lapsed,
        (P::Lapsed, C::Backoff(Action)) if !facts.aborting => P::BackingOff,
        // A late word about an attempt that was given up as unknown.
        (P::BackingOff, C::Fail(Action)) => P::BackingOff,
        (P::Parked, C::Fail(Action)) => P::Parked,
        (P::Unknown, C::Fail(Action)) => facts.settled(),
        // Trouble from the pivot on.
        (P::Waiting, C::Stall) if facts.role == Phase::Retriable => P::Waiting,
        (P::Running | P::BackingOff, C::Stall) if !facts.before_pivot() => phase,
        (P::Lapsed | P::BackingOff, C::Park(Action))
            if !facts.before_pivot() && !facts.aborting =>
        {
            P::Parked
        }
        // Abort: what runs is settled first.
        (P::Pending | P::Waiting, C::Abort) => P::NotStarted,
        (P::Lapsed | P::BackingOff, C::Abort) if facts.before_pivot() => facts.settled(),
        (P::Running, C::Abort) if facts.before_pivot() => P::Running,
        (P::Succeeded | P::Unknown, C::Abort) if facts.before_pivot() => phase,
        (P::Rejected, C::Abort) => P::Rejected,
        // Undoing.
        (
            P::Succeeded | P::Unknown | P::UndoLapsed | P::UndoBackingOff,
            C::Dispatch(Compensation),
        ) if facts.aborting && undoable => P::Compensating,
        (P::Compensating | P::UndoBackingOff | P::UndoParked, C::Succeed(Compensation)) => {
            P::Compensated
        }
        (P::Compensating | P::UndoBackingOff, C::Reject(Compensation)) => P::UndoLapsed,
        (P::Compensating, C::Fail(Compensation) | C::Lose(Compensation)) => P::UndoLapsed,
        (P::UndoLapsed, C::Backoff(Compensation)) => P::UndoBackingOff,
        (P::UndoLapsed, C::Park(Compensation)) => P::UndoParked,
        (P::UndoBackingOff, C::Fail(Compensation)) => P::UndoBackingOff,
        (P::UndoParked, C::Reject(Compensation) | C::Fail(Compensation)) => P::UndoParked,
        // Operators.
        (P::Parked | P::BackingOff, C::Retry(Action)) if !facts.before_pivot() => P::Lapsed,
        (P::Parked | P::Running | P::BackingOff | P::Waiting, C::Skip(Action))
            if facts.role == Phase::Retriable =>
        {
            P::Skipped
        }
        (P::Parked | P::Running | P::BackingOff, C::ResolveSucceeded(Action))
            if !facts.before_pivot() =>
        {
            P::Succeeded
        }
        (P::Waiting, C::ResolveSucceeded(Action)) if facts.role == Phase::Retriable => P::Succeeded,
        (P::Parked, C::ResolveRejected(Action)) if facts.role == Phase::Pivot => P::Rejected,
        (P::UndoParked, C::Retry(Compensation)) => P::UndoLapsed,
        (P::UndoParked, C::Skip(Compensation)) => P::Leftover,
        (P::UndoParked, C::ResolveSucceeded(Compensation)) => P::Compensated,
        // A result that does not count leaves the step where it is.
        (P::Pending | P::Waiting | P::NotStarted, C::Supersede(_)) => return None,
        (_, C::Supersede(Action)) => phase,
        (
            P::Compensating
            | P::UndoLapsed
            | P::UndoBackingOff
            | P::UndoParked
            | P::Compensated
            | P::Leftover,
            C::Supersede(Compensation),
        ) => phase,
        _ => return None,
    })
}
