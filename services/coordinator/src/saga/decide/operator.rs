//! Operators' actions on steps that are parked or stalled.

use sagamesh_api::saga::v1::{
    AbortCause, Direction, OperatorActed, OperatorAction, Phase, Value, transition::Kind as T,
};

use super::{Draft, Refusal, clip, failure};
use crate::saga::plan::StepIndex;
use crate::saga::table::StepPhase;

/// Who does what, and why.
pub(super) struct Act<'a> {
    pub(super) action: OperatorAction,
    pub(super) operator: &'a str,
    pub(super) reason: &'a str,
    pub(super) output: Option<&'a Value>,
}

/// Acts on the step of this name, or on every one that the action fits.
pub(super) fn act(draft: &mut Draft<'_>, step: &str, act: &Act<'_>) -> Result<(), Refusal> {
    if draft.core.ended.is_some() {
        return Err(Refusal::Ended);
    }
    if !step.is_empty() {
        let step = draft
            .plan
            .index_of(step)
            .ok_or_else(|| Refusal::UnknownStep(step.to_owned()))?;
        let direction = fits(draft, step, act.action)?;
        return act_on(draft, &[(step, direction)], act);
    }
    let mut fitting = Vec::new();
    let mut refusal = None;
    for step in draft.plan.indices() {
        match fits(draft, step, act.action) {
            Ok(direction) => fitting.push((step, direction)),
            // Of several reasons the one of a step that needs attention says most.
            Err(why) if needs_attention(draft, step) => refusal = refusal.or(Some(why)),
            Err(_) => {}
        }
    }
    if fitting.is_empty() {
        return Err(refusal.unwrap_or(Refusal::NotResolvable {
            step: String::new(),
            why: NEITHER,
        }));
    }
    act_on(draft, &fitting, act)
}

const NEITHER: &str = "it is neither parked nor stalled";

fn needs_attention(draft: &Draft<'_>, step: StepIndex) -> bool {
    let cell = draft.cell(step);
    cell.stalled || matches!(cell.phase, StepPhase::Parked | StepPhase::UndoParked)
}

fn act_on(
    draft: &mut Draft<'_>,
    steps: &[(StepIndex, Direction)],
    act: &Act<'_>,
) -> Result<(), Refusal> {
    for (step, direction) in steps {
        let resolved =
            act.action == OperatorAction::ResolveSucceeded && *direction == Direction::Action;
        draft.emit(T::OperatorActed(OperatorActed {
            step: draft.name(*step),
            direction: (*direction).into(),
            action: act.action.into(),
            operator: clip(act.operator, 128),
            reason: clip(act.reason, 1_000),
            output: act.output.filter(|_| resolved).cloned(),
        }))?;
        match act.action {
            OperatorAction::Retry => draft.dispatch(*step, *direction)?,
            OperatorAction::ResolveRejected => draft.abort(
                AbortCause::Operator,
                Some(*step),
                failure("RESOLVED_REJECTED", act.reason),
            )?,
            _ => {}
        }
    }
    draft.advance()
}

/// The direction that an action concerns, if it fits where the step stands.
fn fits(draft: &Draft<'_>, step: StepIndex, action: OperatorAction) -> Result<Direction, Refusal> {
    let phase = draft.cell(step).phase;
    let allowed = if !needs_attention(draft, step) {
        Err(NEITHER)
    } else if phase == StepPhase::UndoParked {
        compensation(action).map(|()| Direction::Compensation)
    } else if draft.role(step) == Phase::Pivot {
        pivot(action, phase).map(|()| Direction::Action)
    } else {
        retriable(action, phase).map(|()| Direction::Action)
    };
    allowed.map_err(|why| Refusal::NotResolvable {
        step: draft.name(step),
        why,
    })
}

const NO_ACTION: &str = "no action was given: retry, skip, or resolve it as succeeded or rejected";
const UNDER_WAY: &str = "an attempt is under way: wait for its outcome";

fn compensation(action: OperatorAction) -> Result<(), &'static str> {
    match action {
        OperatorAction::Retry | OperatorAction::Skip | OperatorAction::ResolveSucceeded => Ok(()),
        OperatorAction::ResolveRejected => Err(
            "a compensation cannot be resolved as rejected: retry it, skip it, or resolve it as succeeded",
        ),
        OperatorAction::Unspecified => Err(NO_ACTION),
    }
}

fn pivot(action: OperatorAction, phase: StepPhase) -> Result<(), &'static str> {
    match action {
        OperatorAction::ResolveSucceeded => Ok(()),
        OperatorAction::Retry | OperatorAction::ResolveRejected if phase == StepPhase::Parked => {
            Ok(())
        }
        OperatorAction::Retry | OperatorAction::ResolveRejected => Err(UNDER_WAY),
        OperatorAction::Skip => {
            Err("the pivot decides how the saga ends: resolve it as succeeded or as rejected")
        }
        OperatorAction::Unspecified => Err(NO_ACTION),
    }
}

fn retriable(action: OperatorAction, phase: StepPhase) -> Result<(), &'static str> {
    match action {
        OperatorAction::Skip | OperatorAction::ResolveSucceeded => Ok(()),
        OperatorAction::Retry if phase == StepPhase::Running => Err(UNDER_WAY),
        OperatorAction::Retry if phase == StepPhase::Waiting => {
            Err("it waits for a signal: send it, skip the step, or resolve it as succeeded")
        }
        OperatorAction::Retry => Ok(()),
        OperatorAction::ResolveRejected => Err(
            "a step after the pivot cannot be undone: retry it, skip it, or resolve it as succeeded",
        ),
        OperatorAction::Unspecified => Err(NO_ACTION),
    }
}
