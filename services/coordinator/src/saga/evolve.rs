//! Applies what was recorded. Replay and decisions use the same code, so they cannot disagree.

use std::sync::Arc;

use sagamesh_api::saga::v1::{
    Direction, Failure, OperatorAction, Phase, SagaEvent, SagaState as Ending, UnknownCause,
    transition::Kind as T,
};

use super::plan::{Kind, Plan, StepIndex};
use super::state::{Cell, Core, KeptSignal, OLD_TOKENS, OldToken, Outcome, Run, SagaState};
use super::table::{Change, StepPhase, next};
use super::time::millis;

/// Finds the plan of a definition's version.
pub trait Plans {
    /// The plan with this hash.
    fn plan(&self, definition: &str, hash: &str) -> Option<Arc<Plan>>;
}

impl Plans for Arc<Plan> {
    fn plan(&self, _definition: &str, hash: &str) -> Option<Arc<Plan>> {
        (self.hash() == hash).then(|| Arc::clone(self))
    }
}

/// A record that does not fit the saga it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its definition is not known.
    #[error("version {hash} of definition {definition:?} is not known")]
    NoPlan {
        /// Name of the definition.
        definition: String,
        /// Hash of the version.
        hash: String,
    },
    /// It was written by a newer program.
    #[error(
        "a newer program wrote a change that this one does not know: only that one can go on with the saga"
    )]
    Newer,
    /// The saga was not started before, or it was started twice, or it had ended.
    #[error("{0} is recorded where it cannot be")]
    Misplaced(&'static str),
    /// The definition has no such step.
    #[error("the definition has no step {0:?}")]
    NoStep(String),
    /// The step cannot do this where it stands.
    #[error("step {step} cannot do {change:?} in phase {phase:?}")]
    Illegal {
        /// Index of the step.
        step: StepIndex,
        /// Where it stands.
        phase: StepPhase,
        /// What was recorded.
        change: Change,
    },
}

/// Applies a recorded event. A fault is also kept in the state, which from then on refuses every command.
pub fn evolve(state: &mut SagaState, event: &SagaEvent, plans: &dyn Plans) -> Result<(), Fault> {
    state.version += 1;
    let now = event.event_time.as_ref().map_or(0, millis);
    let applied = event
        .transitions
        .iter()
        // Leaving out what is not known would be to decide on a state that is none.
        .try_for_each(|transition| match &transition.kind {
            Some(kind) => apply(state, kind, now, plans),
            None => Err(Fault::Newer),
        });
    if let Err(fault) = &applied {
        state.fault.get_or_insert_with(|| fault.clone());
    }
    applied
}

fn apply(state: &mut SagaState, kind: &T, now: i64, plans: &dyn Plans) -> Result<(), Fault> {
    match (kind, &mut state.run) {
        (T::Started(started), slot @ None) => {
            let plan = plans
                .plan(&started.definition, &started.definition_hash)
                .ok_or_else(|| Fault::NoPlan {
                    definition: started.definition.clone(),
                    hash: started.definition_hash.clone(),
                })?;
            *slot = Some(Box::new(Run {
                core: Core::new(
                    plan.steps().len(),
                    now,
                    started.deadline_time.as_ref().map(millis),
                ),
                plan,
                input: started.input.clone(),
                search_attributes: started.search_attributes.clone(),
                traceparent: started.traceparent.clone(),
                parent_span_id: started.parent_span_id,
                shard: started.shard,
                outputs: Vec::new(),
                failures: Vec::new(),
                signals: Vec::new(),
                old_tokens: Vec::new(),
                aborted: None,
            }));
            Ok(())
        }
        (T::Started(_), Some(_)) => Err(Fault::Misplaced("a second start")),
        (_, None) => Err(Fault::Misplaced("a transition before the start")),
        (kind, Some(run)) => {
            run.keep(kind)?;
            run.core.apply(&run.plan, kind, now)
        }
    }
}

impl Run {
    /// Keeps what a transition carries. Called before the core changes.
    fn keep(&mut self, kind: &T) -> Result<(), Fault> {
        match kind {
            T::Dispatched(it) => self.retire_token(step(&self.plan, &it.step)?, it.direction()),
            T::Succeeded(it) if it.direction() == Direction::Action => {
                let at = step(&self.plan, &it.step)?;
                let output = match &self.plan.step(at).kind {
                    Kind::Signal { name, .. } => take_signal(&mut self.signals, name),
                    _ => it.output.clone(),
                };
                if let Some(output) = output {
                    self.outputs.push((at, output));
                }
            }
            T::Rejected(it) => self.keep_failure(&it.step, it.failure.as_ref())?,
            T::Failed(it) => self.keep_failure(&it.step, it.failure.as_ref())?,
            T::OutcomeUnknown(it) => {
                self.keep_failure(&it.step, Some(&unknown_failure(it.cause())))?
            }
            T::Parked(it) => self.keep_failure(&it.step, it.failure.as_ref())?,
            T::Superseded(it) => self.old_tokens.retain(|old| old.token != it.lease_token),
            T::OperatorActed(it)
                if it.action() == OperatorAction::ResolveSucceeded
                    && it.direction() == Direction::Action =>
            {
                let at = step(&self.plan, &it.step)?;
                if let Some(output) = &it.output {
                    self.outputs.push((at, output.clone()));
                }
            }
            T::SignalReceived(it) => self.signals.push(KeptSignal {
                name: it.name.clone(),
                id: it.signal_id.clone(),
                payload: it.payload.clone(),
                taken: false,
            }),
            T::Aborted(it) => self.aborted = Some(it.clone()),
            _ => {}
        }
        Ok(())
    }

    fn retire_token(&mut self, step: StepIndex, direction: Direction) {
        let attempt = self.core.cell(step).attempt(direction);
        if matches!(attempt.outcome, Outcome::None | Outcome::Refused) {
            return;
        }
        if self.old_tokens.len() >= OLD_TOKENS {
            self.old_tokens.remove(0);
        }
        self.old_tokens.push(OldToken {
            step,
            direction,
            token: attempt.token,
        });
    }

    fn keep_failure(&mut self, name: &str, failure: Option<&Failure>) -> Result<(), Fault> {
        let at = step(&self.plan, name)?;
        if let Some(failure) = failure {
            match self.failures.iter_mut().find(|(of, _)| *of == at) {
                Some((_, last)) => last.clone_from(failure),
                None => self.failures.push((at, failure.clone())),
            }
        }
        Ok(())
    }
}

fn take_signal(signals: &mut [KeptSignal], name: &str) -> Option<sagamesh_api::saga::v1::Value> {
    let signal = signals
        .iter_mut()
        .find(|signal| !signal.taken && signal.name == name)?;
    signal.taken = true;
    signal.payload.take()
}

/// What is shown of an outcome that nobody knows.
pub(super) fn unknown_failure(cause: UnknownCause) -> Failure {
    let (reason, message) = match cause {
        UnknownCause::Timeout => (
            "ATTEMPT_TIMED_OUT",
            "no result came within the step's timeout",
        ),
        UnknownCause::HeartbeatLost => (
            "HEARTBEAT_LOST",
            "no heartbeat came within the step's heartbeat timeout",
        ),
        UnknownCause::Reported | UnknownCause::Unspecified => (
            "OUTCOME_UNKNOWN",
            "the participant does not know whether it happened",
        ),
    };
    Failure {
        reason: reason.into(),
        message: message.into(),
        retry_after: None,
    }
}

fn step(plan: &Plan, name: &str) -> Result<StepIndex, Fault> {
    plan.index_of(name)
        .ok_or_else(|| Fault::NoStep(name.to_owned()))
}

impl Core {
    /// Applies one transition.
    pub(super) fn apply(&mut self, plan: &Plan, kind: &T, now: i64) -> Result<(), Fault> {
        if self.ended.is_some() {
            return Err(Fault::Misplaced("a transition after the end"));
        }
        match kind {
            T::Started(_) => return Err(Fault::Misplaced("a second start")),
            T::Dispatched(it) => self.dispatch(
                plan,
                step(plan, &it.step)?,
                it.direction(),
                (it.attempt, it.lease_token),
                now,
            )?,
            T::Succeeded(it) => self.settle(
                plan,
                &it.step,
                it.direction(),
                Change::Succeed(it.direction()),
                Outcome::Counted,
            )?,
            T::Rejected(it) => self.settle(
                plan,
                &it.step,
                it.direction(),
                Change::Reject(it.direction()),
                Outcome::Counted,
            )?,
            T::Failed(it) => self.settle(
                plan,
                &it.step,
                it.direction(),
                Change::Fail(it.direction()),
                Outcome::Counted,
            )?,
            T::OutcomeUnknown(it) => self.settle(
                plan,
                &it.step,
                it.direction(),
                Change::Lose(it.direction()),
                Outcome::Unknown,
            )?,
            T::Superseded(it) => {
                let cell = self.change(
                    plan,
                    step(plan, &it.step)?,
                    Change::Supersede(it.direction()),
                )?;
                let attempt = cell.attempt_mut(it.direction());
                if attempt.token == it.lease_token {
                    attempt.outcome = Outcome::Refused;
                }
            }
            T::RetryScheduled(it) => {
                let until = it.retry_time.as_ref().map_or(0, millis);
                self.change(plan, step(plan, &it.step)?, Change::Backoff(it.direction()))?
                    .until = until;
            }
            T::DelayStarted(it) => {
                let until = it.due_time.as_ref().map_or(0, millis);
                self.change(plan, step(plan, &it.step)?, Change::Wait)?
                    .until = until;
            }
            T::SignalAwaited(it) => {
                let until = it.timeout_time.as_ref().map_or(0, millis);
                self.change(plan, step(plan, &it.step)?, Change::Wait)?
                    .until = until;
            }
            T::SignalReceived(_) => {}
            T::Aborted(_) => self.abort(plan)?,
            T::DeadlineMissed(_) => self.deadline_missed = true,
            T::Parked(it) => self
                .change(plan, step(plan, &it.step)?, Change::Park(it.direction()))
                .map(drop)?,
            T::Stalled(it) => {
                self.change(plan, step(plan, &it.step)?, Change::Stall)?
                    .stalled = true
            }
            T::OperatorActed(it) => {
                self.operator(plan, step(plan, &it.step)?, it.direction(), it.action())?
            }
            T::CancelRequested(_) => self.cancelled = true,
            T::Ended(it) => self.end(plan, it.state(), now)?,
        }
        Ok(())
    }

    /// Moves a step along the table.
    fn change(&mut self, plan: &Plan, step: StepIndex, change: Change) -> Result<&mut Cell, Fault> {
        let facts = self.facts(plan.step(step).phase, step);
        let cell = &mut self.cells[usize::from(step)];
        let phase = cell.phase;
        cell.phase = next(phase, change, facts).ok_or(Fault::Illegal {
            step,
            phase,
            change,
        })?;
        Ok(cell)
    }

    fn dispatch(
        &mut self,
        plan: &Plan,
        step: StepIndex,
        direction: Direction,
        (attempt, token): (u32, u64),
        now: i64,
    ) -> Result<(), Fault> {
        let before = self.cell(step).phase;
        let cell = self.change(plan, step, Change::Dispatch(direction))?;
        if direction == Direction::Action {
            cell.older_unknown |= cell.action.outcome == Outcome::Unknown;
            cell.attempts = attempt;
        } else {
            cell.undo_attempts = attempt;
            if matches!(before, StepPhase::Succeeded | StepPhase::Unknown) {
                cell.base = 0;
            }
        }
        let newest = cell.attempt_mut(direction);
        newest.token = token;
        newest.outcome = Outcome::Open;
        if attempt == cell.base + 1 {
            cell.since = now;
        }
        if plan.step(step).phase == Phase::Pivot {
            self.pivot_dispatched = true;
        }
        Ok(())
    }

    /// An attempt, or a wait, ended.
    fn settle(
        &mut self,
        plan: &Plan,
        name: &str,
        direction: Direction,
        change: Change,
        outcome: Outcome,
    ) -> Result<(), Fault> {
        let step = step(plan, name)?;
        // First what is known of the attempt: the table asks whether any may have happened.
        let attempt = self.cells[usize::from(step)].attempt_mut(direction);
        let before = attempt.outcome;
        if before != Outcome::None {
            attempt.outcome = outcome;
        }
        match self.change(plan, step, change) {
            Ok(cell) => {
                if cell.phase == StepPhase::Succeeded {
                    cell.stalled = false;
                }
                Ok(())
            }
            Err(fault) => {
                self.cells[usize::from(step)].attempt_mut(direction).outcome = before;
                Err(fault)
            }
        }
    }

    fn abort(&mut self, plan: &Plan) -> Result<(), Fault> {
        if self.aborting {
            return Err(Fault::Misplaced("a second abort"));
        }
        for step in plan.indices() {
            self.change(plan, step, Change::Abort)?.stalled = false;
        }
        self.aborting = true;
        Ok(())
    }

    fn operator(
        &mut self,
        plan: &Plan,
        step: StepIndex,
        direction: Direction,
        action: OperatorAction,
    ) -> Result<(), Fault> {
        let change = match action {
            OperatorAction::Retry => Change::Retry(direction),
            OperatorAction::Skip => Change::Skip(direction),
            OperatorAction::ResolveSucceeded => Change::ResolveSucceeded(direction),
            OperatorAction::ResolveRejected => Change::ResolveRejected(direction),
            OperatorAction::Unspecified => {
                return Err(Fault::Misplaced("an operator's action without a kind"));
            }
        };
        let cell = self.change(plan, step, change)?;
        cell.stalled = false;
        if action == OperatorAction::Retry {
            cell.base = cell.count(direction);
        }
        Ok(())
    }

    fn end(&mut self, plan: &Plan, state: Ending, now: i64) -> Result<(), Fault> {
        if self.ending(plan) != Some(state) {
            return Err(Fault::Misplaced("an end with steps still open"));
        }
        self.ended = Some(state);
        self.end = Some(now);
        Ok(())
    }

    /// How the saga ends, if nothing is left to do.
    pub(super) fn ending(&self, plan: &Plan) -> Option<Ending> {
        let mut leftovers = false;
        for (cell, step) in self.cells.iter().zip(plan.steps()) {
            let over = if self.aborting {
                cell.undone(step.phase)
            } else {
                cell.done()
            };
            if !over {
                return None;
            }
            leftovers |= cell.phase == StepPhase::Leftover;
        }
        Some(match (self.aborting, leftovers) {
            (false, _) => Ending::Completed,
            (true, false) => Ending::Compensated,
            (true, true) => Ending::CompensatedWithLeftovers,
        })
    }
}

impl Cell {
    /// Steps after it may start.
    pub(super) fn done(&self) -> bool {
        matches!(self.phase, StepPhase::Succeeded | StepPhase::Skipped)
    }

    /// Nothing of it is left to undo, so that steps before it may be undone.
    pub(super) fn undone(&self, role: Phase) -> bool {
        match self.phase {
            StepPhase::NotStarted
            | StepPhase::Rejected
            | StepPhase::Compensated
            | StepPhase::Leftover => true,
            StepPhase::Succeeded => role != Phase::Compensatable,
            _ => false,
        }
    }
}
