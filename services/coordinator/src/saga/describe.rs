//! A saga as its clients see it.

use sagamesh_api::saga::v1::{self as pb, StepStatus, WaitsOn};

use super::plan::{Kind, StepIndex};
use super::state::{Cell, Run, SagaState};
use super::table::StepPhase;
use super::time::timestamp;

/// The saga as it is. What a running attempt waits for only its shell knows: stream, credit, result, breaker, pause or
/// concurrency; `waits_on` is left UNSPECIFIED there.
pub fn describe(saga_id: &str, state: &SagaState) -> pb::Saga {
    let mut saga = describe_brief(saga_id, state);
    if let Some(run) = &state.run {
        saga.steps = run.plan.indices().map(|step| status(run, step)).collect();
    }
    saga
}

/// The same without steps, for lists.
pub fn describe_brief(saga_id: &str, state: &SagaState) -> pb::Saga {
    let mut saga = pb::Saga {
        saga_id: saga_id.to_owned(),
        version: state.version(),
        ..pb::Saga::default()
    };
    let Some(run) = &state.run else {
        return saga;
    };
    run.plan.name().clone_into(&mut saga.definition);
    run.plan.hash().clone_into(&mut saga.definition_hash);
    saga.set_state(state.saga_state());
    saga.search_attributes.clone_from(&run.search_attributes);
    saga.start_time = Some(timestamp(run.core.start));
    saga.end_time = run.core.end.map(timestamp);
    saga.deadline_time = run.core.deadline.map(timestamp);
    saga.aborted.clone_from(&run.aborted);
    saga.leftovers = state.leftovers();
    saga.pivot_dispatched = state.pivot_dispatched();
    saga.attention = state.attention();
    saga
}

fn status(run: &Run, step: StepIndex) -> StepStatus {
    let plan = run.plan.step(step);
    let cell = run.core.cell(step);
    let (waits_on, until) = waits_on(cell, &plan.kind);
    let mut status = StepStatus {
        name: plan.name.clone(),
        attempts: cell.attempts,
        compensation_attempts: cell.undo_attempts,
        until_time: until.map(timestamp),
        last_failure: run
            .failures
            .iter()
            .find(|(of, _)| *of == step)
            .map(|(_, failure)| failure.clone()),
        output: run
            .outputs
            .iter()
            .find(|(of, _)| *of == step)
            .map(|(_, value)| value.clone()),
        stalled: cell.stalled,
        ..StepStatus::default()
    };
    status.set_state(step_state(cell.phase));
    status.set_waits_on(waits_on);
    status
}

fn waits_on(cell: &Cell, kind: &Kind) -> (WaitsOn, Option<i64>) {
    match (cell.phase, kind) {
        (StepPhase::BackingOff | StepPhase::UndoBackingOff, _) => {
            (WaitsOn::Timer, Some(cell.until))
        }
        (StepPhase::Waiting, Kind::Signal { timeout_millis, .. }) => {
            (WaitsOn::Signal, timeout_millis.map(|_| cell.until))
        }
        (StepPhase::Waiting, _) => (WaitsOn::Timer, Some(cell.until)),
        (StepPhase::Parked | StepPhase::UndoParked, _) => (WaitsOn::Operator, None),
        _ => (WaitsOn::Unspecified, None),
    }
}

fn step_state(phase: StepPhase) -> pb::StepState {
    match phase {
        StepPhase::Pending => pb::StepState::Pending,
        StepPhase::Waiting => pb::StepState::Waiting,
        StepPhase::Running => pb::StepState::Running,
        StepPhase::Lapsed | StepPhase::BackingOff => pb::StepState::BackingOff,
        StepPhase::Parked | StepPhase::UndoParked => pb::StepState::Parked,
        StepPhase::Succeeded => pb::StepState::Succeeded,
        StepPhase::Rejected => pb::StepState::Rejected,
        StepPhase::Unknown => pb::StepState::Unknown,
        StepPhase::Skipped | StepPhase::Leftover => pb::StepState::Skipped,
        StepPhase::NotStarted => pb::StepState::NotStarted,
        StepPhase::Compensating | StepPhase::UndoLapsed | StepPhase::UndoBackingOff => {
            pb::StepState::Compensating
        }
        StepPhase::Compensated => pb::StepState::Compensated,
    }
}
