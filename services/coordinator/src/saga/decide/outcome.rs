//! How attempts end, and what follows.

use sagamesh_api::saga::v1::{
    self as pb, AbortCause, Direction, Failed, Failure, OutcomeUnknown, ParkReason, Phase,
    Rejected, Succeeded, Superseded, UnknownCause, Value, result, transition::Kind as T,
};

use super::{Draft, Refusal, clip, failure, has_room};
use crate::saga::evolve::unknown_failure;
use crate::saga::plan::{CallPlan, StepIndex};
use crate::saga::state::{Outcome, Run};
use crate::saga::table::StepPhase;
use crate::saga::time::duration_millis;

/// A participant may ask to be left alone for this long at most.
const MAX_RETRY_AFTER_MILLIS: i64 = 24 * 3_600 * 1_000;

/// How an attempt ended.
enum End {
    Success(Option<Value>),
    Rejection(Failure),
    Transient(Failure),
    Unknown(UnknownCause, Failure),
}

/// A participant's result.
pub(super) fn result(draft: &mut Draft<'_>, run: &Run, result: &pb::Result) -> Result<(), Refusal> {
    let step = draft
        .plan
        .index_of(&result.step)
        .ok_or_else(|| Refusal::UnknownStep(result.step.clone()))?;
    let direction = result.direction();
    has_attempts(draft, step, direction)?;
    let end = match result.outcome.as_ref().ok_or(Refusal::NoOutcome)? {
        result::Outcome::Success(success) => End::Success(success.output.clone()),
        result::Outcome::Rejection(failure) => End::Rejection(tidy(failure)),
        result::Outcome::Transient(failure) => End::Transient(tidy(failure)),
        result::Outcome::Unknown(failure) => End::Unknown(UnknownCause::Reported, tidy(failure)),
    };
    let newest = draft.cell(step).attempt(direction);
    let stale = newest.token != result.lease_token;
    let counts = accepts(draft.cell(step).phase, direction);
    match newest.outcome {
        _ if stale => {
            let old = run.old_tokens.iter().any(|old| {
                old.token == result.lease_token && old.step == step && old.direction == direction
            });
            supersede(draft, step, direction, result.lease_token, old)
        }
        Outcome::None | Outcome::Refused => Err(Refusal::Superseded),
        Outcome::Counted => Ok(()),
        Outcome::Open | Outcome::Unknown if !counts => {
            supersede(draft, step, direction, result.lease_token, true)
        }
        Outcome::Unknown if matches!(end, End::Unknown(..)) => Ok(()),
        Outcome::Open | Outcome::Unknown => {
            if let End::Success(output) = &end {
                has_room(run, output.as_ref())?;
            }
            settle(draft, step, direction, end)
        }
    }
}

/// The newest attempt gave no sign in time.
pub(super) fn timed_out(
    draft: &mut Draft<'_>,
    step: StepIndex,
    direction: Direction,
    token: u64,
    cause: UnknownCause,
) -> Result<(), Refusal> {
    if !is_open(draft, step, direction, token)? {
        return Ok(());
    }
    settle(
        draft,
        step,
        direction,
        End::Unknown(cause, unknown_failure(cause)),
    )
}

/// The newest attempt was never written to a stream.
pub(super) fn never_sent(
    draft: &mut Draft<'_>,
    step: StepIndex,
    direction: Direction,
    token: u64,
) -> Result<(), Refusal> {
    if !is_open(draft, step, direction, token)? {
        return Ok(());
    }
    settle(
        draft,
        step,
        direction,
        End::Transient(failure(
            "NEVER_SENT",
            "the command was withdrawn before it was sent",
        )),
    )
}

fn is_open(
    draft: &Draft<'_>,
    step: StepIndex,
    direction: Direction,
    token: u64,
) -> Result<bool, Refusal> {
    draft.known(step)?;
    has_attempts(draft, step, direction)?;
    let cell = draft.cell(step);
    let newest = cell.attempt(direction);
    Ok(newest.token == token && newest.outcome == Outcome::Open && accepts(cell.phase, direction))
}

fn has_attempts(draft: &Draft<'_>, step: StepIndex, direction: Direction) -> Result<(), Refusal> {
    let plan = draft.plan.step(step);
    let has = match direction {
        Direction::Action => plan.call().is_some(),
        Direction::Compensation => plan.phase == Phase::Compensatable && plan.call().is_some(),
        Direction::Unspecified => false,
    };
    if has {
        Ok(())
    } else {
        Err(Refusal::NoAttempts(plan.name.clone()))
    }
}

/// Whether an outcome of the newest attempt still matters in this phase.
fn accepts(phase: StepPhase, direction: Direction) -> bool {
    match direction {
        Direction::Compensation => matches!(
            phase,
            StepPhase::Compensating | StepPhase::UndoBackingOff | StepPhase::UndoParked
        ),
        _ => matches!(
            phase,
            StepPhase::Running | StepPhase::BackingOff | StepPhase::Parked | StepPhase::Unknown
        ),
    }
}

/// Refuses a late result; each of our tokens is recorded once, and none after the end.
fn supersede(
    draft: &mut Draft<'_>,
    step: StepIndex,
    direction: Direction,
    lease_token: u64,
    ours: bool,
) -> Result<(), Refusal> {
    if !ours || draft.core.ended.is_some() {
        return Err(Refusal::Superseded);
    }
    draft.emit(T::Superseded(Superseded {
        step: draft.name(step),
        direction: direction.into(),
        lease_token,
    }))
}

fn settle(
    draft: &mut Draft<'_>,
    step: StepIndex,
    direction: Direction,
    end: End,
) -> Result<(), Refusal> {
    let name = draft.name(step);
    let towards = direction.into();
    match end {
        End::Success(output) => draft.emit(T::Succeeded(Succeeded {
            step: name,
            direction: towards,
            output,
        }))?,
        End::Rejection(failure) => {
            draft.emit(T::Rejected(Rejected {
                step: name,
                direction: towards,
                failure: Some(failure.clone()),
            }))?;
            rejected(draft, step, direction, failure)?;
        }
        End::Transient(failure) => {
            let pause = failure
                .retry_after
                .as_ref()
                .map_or(0, duration_millis)
                .clamp(0, MAX_RETRY_AFTER_MILLIS);
            draft.emit(T::Failed(Failed {
                step: name,
                direction: towards,
                failure: Some(failure.clone()),
            }))?;
            lapsed(draft, step, direction, failure, pause)?;
        }
        End::Unknown(cause, failure) => {
            draft.emit(T::OutcomeUnknown(OutcomeUnknown {
                step: name,
                direction: towards,
                cause: cause.into(),
            }))?;
            lapsed(draft, step, direction, failure, 0)?;
        }
    }
    draft.advance()
}

/// After a rejection.
fn rejected(
    draft: &mut Draft<'_>,
    step: StepIndex,
    direction: Direction,
    failure: Failure,
) -> Result<(), Refusal> {
    let role = draft.role(step);
    match draft.cell(step).phase {
        StepPhase::UndoLapsed => draft.park(
            step,
            direction,
            ParkReason::CompensationRejected,
            Some(failure),
        ),
        StepPhase::Lapsed if role == Phase::Pivot => {
            draft.park(step, direction, ParkReason::PivotUnknown, Some(failure))
        }
        StepPhase::Lapsed => draft.park(
            step,
            direction,
            ParkReason::RetriableRejected,
            Some(failure),
        ),
        StepPhase::Rejected | StepPhase::Unknown if !draft.core.aborting => {
            draft.abort(AbortCause::Rejected, Some(step), failure)
        }
        _ => Ok(()),
    }
}

/// After an attempt that did not settle the step: another one, an end of patience, or nothing where it was settled otherwise.
fn lapsed(
    draft: &mut Draft<'_>,
    step: StepIndex,
    direction: Direction,
    failure: Failure,
    pause_millis: i64,
) -> Result<(), Refusal> {
    let plan = draft.plan;
    let Some(call) = plan.step(step).call() else {
        return Ok(());
    };
    match draft.cell(step).phase {
        StepPhase::Lapsed => match draft.role(step) {
            Phase::Pivot if patience_is_over(draft, step, call) => {
                draft.park(step, direction, ParkReason::PivotUnknown, Some(failure))
            }
            Phase::Pivot | Phase::Retriable => draft.back_off(step, direction, pause_millis),
            _ if used_up(draft, step, direction, call.retry.max_attempts) => {
                draft.abort(AbortCause::AttemptsExhausted, Some(step), failure)
            }
            _ => draft.back_off(step, direction, pause_millis),
        },
        StepPhase::UndoLapsed
            if used_up(draft, step, direction, call.compensation_retry.max_attempts) =>
        {
            draft.park(
                step,
                direction,
                ParkReason::CompensationExhausted,
                Some(failure),
            )
        }
        StepPhase::UndoLapsed => draft.back_off(step, direction, pause_millis),
        _ => Ok(()),
    }
}

fn used_up(draft: &Draft<'_>, step: StepIndex, direction: Direction, max_attempts: u32) -> bool {
    let cell = draft.cell(step);
    cell.count(direction).saturating_sub(cell.base) >= max_attempts
}

fn patience_is_over(draft: &Draft<'_>, step: StepIndex, call: &CallPlan) -> bool {
    let cell = draft.cell(step);
    cell.stalled || draft.now >= cell.since.saturating_add(call.stalled_after_millis)
}

/// Within the limits that `Failure` promises.
fn tidy(failure: &Failure) -> Failure {
    let upper = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    let reason: String = failure.reason.chars().take(63).map(upper).collect();
    Failure {
        reason: if reason.is_empty() {
            "UNSPECIFIED".to_owned()
        } else {
            reason
        },
        message: clip(&failure.message, 1_000),
        retry_after: failure.retry_after,
    }
}
