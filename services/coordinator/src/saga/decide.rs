//! Decides. Every decision tries its own transitions on a copy of the saga's small core, with the code that replays them.

mod operator;
mod outcome;
mod people;
mod start;
mod times;

use prost::Message;
use sagamesh_api::saga::v1::{
    AbortCause, Aborted, DelayStarted, Direction, Dispatched, Ended, Failure, ParkReason, Parked,
    Phase, RetryScheduled, SignalAwaited, Succeeded, Transition, Value, transition::Kind as T,
};

use super::evolve::Fault;
use super::plan::{Kind, Plan, StepIndex, StepSet};
use super::request::{Command, Refusal};
use super::state::{Cell, Core, Run, SagaState};
use super::table::StepPhase;
use super::time::timestamp;

/// Most signals that a saga keeps.
const MAX_SIGNALS: usize = 1_000;

/// Most bytes of input, outputs and signals that a saga keeps. A command carries no more than that, and stays below the 4 MiB that
/// clients take in one message by default.
const MAX_KEPT_BYTES: usize = 3 << 20;

/// Decides on a command at `now` (milliseconds since 1970). All transitions belong into one event of that time. None: nothing
/// changes, because it had been counted before or nothing waits for it any more. `seed` feeds lease tokens and jitter.
pub fn decide(
    state: &SagaState,
    command: &Command,
    now: i64,
    seed: u64,
) -> Result<Vec<Transition>, Refusal> {
    if let Some(fault) = state.fault() {
        return Err(match fault {
            Fault::Newer => Refusal::Newer(fault.to_string()),
            other => Refusal::Corrupt(other.to_string()),
        });
    }
    let run = match (command, &state.run) {
        (Command::Start(start), None) => return start::start(start, now, seed),
        (Command::Start(start), Some(run)) => return start::again(run, start),
        (_, None) => return Err(Refusal::NotStarted),
        (_, Some(run)) => run,
    };
    let mut draft = Draft::new(run, now, seed);
    match command {
        Command::Start(_) => {}
        Command::Result(result) => outcome::result(&mut draft, run, result)?,
        Command::AttemptTimedOut {
            step,
            direction,
            token,
            cause,
        } => outcome::timed_out(&mut draft, *step, *direction, *token, *cause)?,
        Command::NeverSent {
            step,
            direction,
            token,
        } => outcome::never_sent(&mut draft, *step, *direction, *token)?,
        Command::RetryDue { step, direction } => draft.retry_due(*step, *direction)?,
        Command::DelayDue { step } => draft.delay_due(*step)?,
        Command::SignalTimeout { step } => draft.signal_timeout(*step)?,
        Command::Signal {
            name,
            signal_id,
            payload,
        } => draft.signal(run, name, signal_id, payload.as_ref())?,
        Command::Cancel { requester, reason } => draft.cancel(requester, reason)?,
        Command::DeadlineReached => draft.deadline_reached()?,
        Command::StallCheck { step } => draft.stall_check(*step)?,
        Command::Operator {
            step,
            action,
            operator,
            reason,
            output,
        } => {
            has_room(run, output.as_ref())?;
            operator::act(
                &mut draft,
                step,
                &operator::Act {
                    action: *action,
                    operator,
                    reason,
                    output: output.as_ref(),
                },
            )?;
        }
    }
    Ok(draft.out)
}

/// A decision in the making.
struct Draft<'a> {
    plan: &'a Plan,
    core: Core,
    now: i64,
    random: u64,
    /// Signals that are kept and not taken.
    signals: Vec<&'a str>,
    out: Vec<Transition>,
}

impl<'a> Draft<'a> {
    fn new(run: &'a Run, now: i64, seed: u64) -> Draft<'a> {
        Draft {
            plan: &run.plan,
            core: run.core.clone(),
            now,
            random: seed,
            signals: run
                .signals
                .iter()
                .filter(|signal| !signal.taken)
                .map(|signal| signal.name.as_str())
                .collect(),
            out: Vec::new(),
        }
    }

    fn emit(&mut self, kind: T) -> Result<(), Refusal> {
        self.core
            .apply(self.plan, &kind, self.now)
            .map_err(|fault| Refusal::Corrupt(fault.to_string()))?;
        self.out.push(Transition { kind: Some(kind) });
        Ok(())
    }

    fn cell(&self, step: StepIndex) -> &Cell {
        self.core.cell(step)
    }

    fn name(&self, step: StepIndex) -> String {
        self.plan.step(step).name.clone()
    }

    fn role(&self, step: StepIndex) -> Phase {
        self.plan.step(step).phase
    }

    /// Steps that a timer or the shell names exist, unless it mixed up sagas.
    fn known(&self, step: StepIndex) -> Result<(), Refusal> {
        if usize::from(step) < self.core.cells.len() {
            Ok(())
        } else {
            Err(Refusal::UnknownStep(format!("#{step}")))
        }
    }

    fn not_before(&self, due: i64) -> Result<(), Refusal> {
        if self.now < due {
            Err(Refusal::TooEarly { due })
        } else {
            Ok(())
        }
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Releases everything that may go now, or ends the saga.
    fn advance(&mut self) -> Result<(), Refusal> {
        while self.core.ended.is_none() {
            if let Some(state) = self.core.ending(self.plan) {
                let phases = self.plan.steps().iter().zip(&self.core.cells);
                let leftovers = phases
                    .filter(|(_, cell)| cell.phase == StepPhase::Leftover)
                    .map(|(step, _)| step.name.clone())
                    .collect();
                return self.emit(T::Ended(Ended {
                    state: state.into(),
                    leftovers,
                }));
            }
            let settled = if self.core.aborting {
                self.release_compensations()?
            } else {
                self.release_actions()?
            };
            if settled {
                break;
            }
        }
        Ok(())
    }

    /// False when something was settled at once, so that more may follow.
    fn release_actions(&mut self) -> Result<bool, Refusal> {
        let done = self.set(|cell, _| cell.done());
        let plan = self.plan;
        for step in plan.indices() {
            if self.cell(step).phase != StepPhase::Pending || !plan.step(step).after.is_subset(done)
            {
                continue;
            }
            if !self.release(step)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn release_compensations(&mut self) -> Result<bool, Refusal> {
        let undone = self.set(|cell, role| cell.undone(role));
        let plan = self.plan;
        for step in plan.indices() {
            let ready = matches!(
                self.cell(step).phase,
                StepPhase::Succeeded | StepPhase::Unknown
            ) && self.role(step) == Phase::Compensatable
                && plan.step(step).descendants.is_subset(undone);
            if ready {
                self.dispatch(step, Direction::Compensation)?;
            }
        }
        Ok(true)
    }

    fn set(&self, wanted: impl Fn(&Cell, Phase) -> bool) -> StepSet {
        let mut set = StepSet::default();
        for step in self.plan.indices() {
            if wanted(self.cell(step), self.role(step)) {
                set.insert(step);
            }
        }
        set
    }

    /// Starts a step. False when it is over, or the saga is aborted, at once.
    fn release(&mut self, step: StepIndex) -> Result<bool, Refusal> {
        match &self.plan.step(step).kind {
            Kind::Call(call) => {
                let late = self.core.deadline.is_some_and(|deadline| {
                    deadline.saturating_sub(self.now) < call.timeout_millis
                });
                if self.role(step) == Phase::Pivot && late {
                    let message =
                        "less than one timeout of the pivot was left before the saga's deadline";
                    self.abort(
                        AbortCause::Deadline,
                        Some(step),
                        failure("DEADLINE_EXCEEDED", message),
                    )?;
                    return Ok(false);
                }
                self.dispatch(step, Direction::Action)?;
            }
            Kind::Delay { millis } => {
                let due_time = Some(timestamp(self.now.saturating_add(*millis)));
                self.emit(T::DelayStarted(DelayStarted {
                    step: self.name(step),
                    due_time,
                }))?;
            }
            Kind::Signal {
                name,
                timeout_millis,
            } => {
                let timeout_time =
                    timeout_millis.map(|millis| timestamp(self.now.saturating_add(millis)));
                self.emit(T::SignalAwaited(SignalAwaited {
                    step: self.name(step),
                    timeout_time,
                }))?;
                if let Some(at) = self.signals.iter().position(|kept| *kept == name.as_str()) {
                    self.signals.remove(at);
                    self.wait_over(step)?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn dispatch(&mut self, step: StepIndex, direction: Direction) -> Result<(), Refusal> {
        let lease_token = self.next_random().max(1);
        self.emit(T::Dispatched(Dispatched {
            step: self.name(step),
            direction: direction.into(),
            attempt: self.cell(step).count(direction).saturating_add(1),
            lease_token,
        }))
    }

    fn wait_over(&mut self, step: StepIndex) -> Result<(), Refusal> {
        self.emit(T::Succeeded(Succeeded {
            step: self.name(step),
            direction: Direction::Action.into(),
            output: None,
        }))
    }

    fn abort(
        &mut self,
        cause: AbortCause,
        step: Option<StepIndex>,
        failure: Failure,
    ) -> Result<(), Refusal> {
        let step = step.map(|step| self.name(step)).unwrap_or_default();
        self.emit(T::Aborted(Aborted {
            cause: cause.into(),
            step,
            failure: Some(failure),
        }))
    }

    fn park(
        &mut self,
        step: StepIndex,
        direction: Direction,
        reason: ParkReason,
        failure: Option<Failure>,
    ) -> Result<(), Refusal> {
        self.emit(T::Parked(Parked {
            step: self.name(step),
            direction: direction.into(),
            reason: reason.into(),
            failure,
        }))
    }

    fn back_off(
        &mut self,
        step: StepIndex,
        direction: Direction,
        at_least_millis: i64,
    ) -> Result<(), Refusal> {
        let Kind::Call(call) = &self.plan.step(step).kind else {
            return Err(Refusal::NoAttempts(self.name(step)));
        };
        let policy = if direction == Direction::Action {
            &call.retry
        } else {
            &call.compensation_retry
        };
        let cell = self.cell(step);
        let attempt = cell.count(direction).saturating_sub(cell.base);
        let backoff = policy
            .backoff_millis(attempt, self.next_random())
            .max(at_least_millis);
        self.emit(T::RetryScheduled(RetryScheduled {
            step: self.name(step),
            direction: direction.into(),
            retry_time: Some(timestamp(self.now.saturating_add(backoff))),
        }))
    }
}

/// Whether the saga may keep one more value.
fn has_room(run: &Run, value: Option<&Value>) -> Result<(), Refusal> {
    let Some(value) = value.filter(|value| value.encoded_len() > 0) else {
        return Ok(());
    };
    let kept = run.kept_bytes();
    if kept.saturating_add(value.encoded_len()) > MAX_KEPT_BYTES {
        return Err(Refusal::TooLarge {
            kept,
            most: MAX_KEPT_BYTES,
        });
    }
    Ok(())
}

fn failure(reason: &str, message: &str) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message: clip(message, 1_000),
        retry_after: None,
    }
}

fn clip(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}
