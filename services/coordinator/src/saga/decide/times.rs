//! Times that passed.

use sagamesh_api::saga::v1::{
    AbortCause, DeadlineMissed, Direction, ParkReason, Phase, Stalled, transition::Kind as T,
};

use super::{Draft, Refusal, failure};
use crate::saga::plan::{Kind, StepIndex};
use crate::saga::table::StepPhase;

impl Draft<'_> {
    pub(super) fn retry_due(
        &mut self,
        step: StepIndex,
        direction: Direction,
    ) -> Result<(), Refusal> {
        self.known(step)?;
        let phase = match direction {
            Direction::Compensation => StepPhase::UndoBackingOff,
            _ => StepPhase::BackingOff,
        };
        let cell = *self.cell(step);
        if self.core.ended.is_some() || cell.phase != phase {
            return Ok(());
        }
        self.not_before(cell.until)?;
        self.dispatch(step, direction)
    }

    pub(super) fn delay_due(&mut self, step: StepIndex) -> Result<(), Refusal> {
        self.known(step)?;
        let cell = *self.cell(step);
        if cell.phase != StepPhase::Waiting
            || !matches!(self.plan.step(step).kind, Kind::Delay { .. })
        {
            return Ok(());
        }
        self.not_before(cell.until)?;
        self.wait_over(step)?;
        self.advance()
    }

    pub(super) fn signal_timeout(&mut self, step: StepIndex) -> Result<(), Refusal> {
        self.known(step)?;
        let cell = *self.cell(step);
        let timed = matches!(
            self.plan.step(step).kind,
            Kind::Signal {
                timeout_millis: Some(_),
                ..
            }
        );
        if cell.phase != StepPhase::Waiting || !timed || cell.stalled {
            return Ok(());
        }
        self.not_before(cell.until)?;
        if self.role(step) == Phase::Retriable {
            return self.emit(T::Stalled(Stalled {
                step: self.name(step),
            }));
        }
        self.abort(
            AbortCause::SignalTimeout,
            Some(step),
            failure("SIGNAL_TIMEOUT", "the signal did not come in time"),
        )?;
        self.advance()
    }

    pub(super) fn deadline_reached(&mut self) -> Result<(), Refusal> {
        let Some(deadline) = self.core.deadline else {
            return Ok(());
        };
        if self.core.ended.is_some() || self.core.aborting || self.core.deadline_missed {
            return Ok(());
        }
        self.not_before(deadline)?;
        if self.core.pivot_dispatched {
            return self.emit(T::DeadlineMissed(DeadlineMissed {}));
        }
        self.abort(
            AbortCause::Deadline,
            None,
            failure("DEADLINE_EXCEEDED", "the saga's deadline passed"),
        )?;
        self.advance()
    }

    pub(super) fn stall_check(&mut self, step: StepIndex) -> Result<(), Refusal> {
        self.known(step)?;
        let cell = *self.cell(step);
        let role = self.role(step);
        let Kind::Call(call) = &self.plan.step(step).kind else {
            return Ok(());
        };
        let watched = matches!(role, Phase::Pivot | Phase::Retriable)
            && matches!(cell.phase, StepPhase::Running | StepPhase::BackingOff);
        if !watched || cell.stalled {
            return Ok(());
        }
        self.not_before(cell.since.saturating_add(call.stalled_after_millis))?;
        // An attempt of the pivot that is still under way may yet answer: it is parked when that attempt is over.
        if role == Phase::Pivot && cell.phase == StepPhase::BackingOff {
            return self.park(step, Direction::Action, ParkReason::PivotUnknown, None);
        }
        self.emit(T::Stalled(Stalled {
            step: self.name(step),
        }))
    }
}
