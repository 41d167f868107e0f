//! What the saga is owed by the world: commands to send and times to wait for.

use sagamesh_api::saga::v1::{Direction, Phase, SagaEvent, transition::Kind as T};

use super::plan::{Kind, StepIndex};
use super::request::Command;
use super::state::SagaState;
use super::table::StepPhase;

/// One thing owed. Effects are released after the event that causes them is durable, and each is safe to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Send this attempt to its participant, and report its result or its silence.
    Send {
        /// The step.
        step: StepIndex,
        /// Which direction.
        direction: Direction,
        /// Number of the attempt.
        attempt: u32,
        /// Its token.
        token: u64,
    },
    /// The saga was aborted while this action's attempt was owed or under way. If it is still in a queue, take it out and say
    /// [`Command::NeverSent`]; if it was sent, or nobody knows, wait for its result or its timeout. Never send it.
    Settle {
        /// The step.
        step: StepIndex,
        /// Number of the attempt.
        attempt: u32,
        /// Its token.
        token: u64,
    },
    /// Wake up.
    Timer {
        /// When: milliseconds since 1970.
        at: i64,
        /// What for.
        timer: Timer,
    },
}

/// What a time is waited for. A timer that fires when nothing waits for it any more changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// A backoff.
    Retry {
        /// The step.
        step: StepIndex,
        /// Which direction.
        direction: Direction,
    },
    /// The end of a DELAY step.
    Delay {
        /// The step.
        step: StepIndex,
    },
    /// The timeout of a SIGNAL step.
    Signal {
        /// The step.
        step: StepIndex,
    },
    /// The saga's deadline.
    Deadline,
    /// `stalled_after` of a step.
    Stall {
        /// The step.
        step: StepIndex,
    },
}

impl Timer {
    /// What to ask when it fires.
    pub fn command(self) -> Command {
        match self {
            Timer::Retry { step, direction } => Command::RetryDue { step, direction },
            Timer::Delay { step } => Command::DelayDue { step },
            Timer::Signal { step } => Command::SignalTimeout { step },
            Timer::Deadline => Command::DeadlineReached,
            Timer::Stall { step } => Command::StallCheck { step },
        }
    }
}

/// Everything still owed.
pub fn outstanding(state: &SagaState) -> Vec<Effect> {
    let mut owed = Vec::new();
    owed.extend(deadline(state));
    for step in state.indices() {
        owed.extend(attempt_or_wait(state, step));
        owed.extend(stall(state, step));
    }
    owed
}

/// What `event` newly caused, given the state after it.
pub fn effects(after: &SagaState, event: &SagaEvent, out: &mut Vec<Effect>) {
    for transition in &event.transitions {
        match &transition.kind {
            Some(T::Started(_)) => out.extend(deadline(after)),
            Some(T::Dispatched(dispatched)) => {
                let Some(step) = after.step_index(&dispatched.step) else {
                    continue;
                };
                out.extend(attempt_or_wait(after, step));
                let cell = after.cell(step);
                if dispatched.direction() == Direction::Action && cell.attempts == cell.base + 1 {
                    out.extend(stall(after, step));
                }
            }
            Some(T::RetryScheduled(scheduled)) => {
                out.extend(
                    after
                        .step_index(&scheduled.step)
                        .and_then(|step| attempt_or_wait(after, step)),
                );
            }
            Some(T::DelayStarted(started)) => {
                out.extend(
                    after
                        .step_index(&started.step)
                        .and_then(|step| attempt_or_wait(after, step)),
                );
            }
            Some(T::SignalAwaited(awaited)) => {
                out.extend(
                    after
                        .step_index(&awaited.step)
                        .and_then(|step| attempt_or_wait(after, step)),
                );
            }
            Some(T::Aborted(_)) => {
                for step in after.indices() {
                    if after.cell(step).phase == StepPhase::Running {
                        out.extend(attempt_or_wait(after, step));
                    }
                }
            }
            _ => {}
        }
    }
}

fn deadline(state: &SagaState) -> Option<Effect> {
    let at = state.deadline()?;
    (!state.has_ended() && !state.is_aborting() && !state.deadline_missed()).then_some(
        Effect::Timer {
            at,
            timer: Timer::Deadline,
        },
    )
}

fn attempt_or_wait(state: &SagaState, step: StepIndex) -> Option<Effect> {
    let cell = state.cell(step);
    Some(match cell.phase {
        StepPhase::Running if state.is_aborting() => Effect::Settle {
            step,
            attempt: cell.attempts,
            token: cell.action.token,
        },
        StepPhase::Running => Effect::Send {
            step,
            direction: Direction::Action,
            attempt: cell.attempts,
            token: cell.action.token,
        },
        StepPhase::Compensating => Effect::Send {
            step,
            direction: Direction::Compensation,
            attempt: cell.undo_attempts,
            token: cell.undo.token,
        },
        StepPhase::BackingOff | StepPhase::UndoBackingOff => {
            let direction = if cell.phase == StepPhase::BackingOff {
                Direction::Action
            } else {
                Direction::Compensation
            };
            Effect::Timer {
                at: cell.until,
                timer: Timer::Retry { step, direction },
            }
        }
        StepPhase::Waiting => match &state.plan()?.step(step).kind {
            Kind::Delay { .. } => Effect::Timer {
                at: cell.until,
                timer: Timer::Delay { step },
            },
            Kind::Signal {
                timeout_millis: Some(_),
                ..
            } if !cell.stalled => Effect::Timer {
                at: cell.until,
                timer: Timer::Signal { step },
            },
            _ => return None,
        },
        _ => return None,
    })
}

fn stall(state: &SagaState, step: StepIndex) -> Option<Effect> {
    let cell = state.cell(step);
    let plan = state.plan()?.step(step);
    let Kind::Call(call) = &plan.kind else {
        return None;
    };
    let watched = matches!(plan.phase, Phase::Pivot | Phase::Retriable)
        && !cell.stalled
        && matches!(cell.phase, StepPhase::Running | StepPhase::BackingOff);
    watched.then(|| Effect::Timer {
        at: cell.since.saturating_add(call.stalled_after_millis),
        timer: Timer::Stall { step },
    })
}
