//! A saga under test: every decision is recorded, replayed, and checked against its history and its effects.

use std::sync::Arc;

use prost::Message as _;
use sagamesh_api::saga::v1::{
    self as pb, Direction, OperatorAction, SagaEvent, Transition, UnknownCause, result,
};

use super::history::History;
use crate::saga::time::timestamp;
use crate::saga::{
    Command, Effect, Kind, Plan, Refusal, SagaState, Start, StepIndex, StepPhase, build_command,
    decide, describe, effects, evolve, outstanding,
};

pub(super) use super::samples::*;

/// A saga under test.
#[derive(Clone)]
pub(super) struct World {
    pub(super) plan: Arc<Plan>,
    pub(super) state: SagaState,
    pub(super) events: Vec<SagaEvent>,
    pub(super) history: History,
    pub(super) now: i64,
    pub(super) seed: u64,
}

impl World {
    pub(super) fn new(plan: &Arc<Plan>) -> World {
        World {
            plan: Arc::clone(plan),
            state: SagaState::new(),
            events: Vec::new(),
            history: History::new(plan),
            now: NOW,
            seed: 42,
        }
    }

    pub(super) fn started(plan: &Arc<Plan>) -> World {
        World::started_with(start(plan))
    }

    pub(super) fn started_with(start: Start) -> World {
        let mut world = World::new(&start.plan);
        world.ok(Command::Start(Box::new(start)));
        world
    }

    /// A copy to go another way with, without the events so far.
    pub(super) fn branch(&self) -> World {
        World {
            plan: Arc::clone(&self.plan),
            state: self.state.clone(),
            events: Vec::new(),
            history: self.history.clone(),
            ..*self
        }
    }

    /// Decides, records, and checks.
    pub(super) fn act(&mut self, command: Command) -> Result<Vec<Transition>, Refusal> {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let transitions = decide(&self.state, &command, self.now, self.seed)?;
        if transitions.is_empty() {
            return Ok(transitions);
        }
        let event = self.record(&transitions);
        let stored = SagaEvent::decode(event.encode_to_vec().as_slice()).expect("what was encoded");
        assert_eq!(stored, event, "events survive storage");
        let saga = describe("saga", &self.state);
        assert_eq!(saga.steps.len(), self.plan.steps().len());
        self.events.push(event);
        assert_eq!(saga.version, self.events.len() as u64);
        Ok(transitions)
    }

    /// Records what was decided, and checks it.
    pub(super) fn record(&mut self, transitions: &[Transition]) -> SagaEvent {
        let event = SagaEvent {
            version: 0,
            event_time: Some(timestamp(self.now)),
            transitions: transitions.to_vec(),
        };
        let owed_before = outstanding(&self.state);
        self.history.record(&self.plan, &event);
        evolve(&mut self.state, &event, &self.plan)
            .unwrap_or_else(|fault| panic!("{fault} after {event:?}"));
        self.check_effects(&owed_before, &event);
        event
    }

    fn check_effects(&self, before: &[Effect], event: &SagaEvent) {
        let after = outstanding(&self.state);
        let mut new = Vec::new();
        effects(&self.state, event, &mut new);
        for effect in &new {
            assert!(after.contains(effect), "emitted but not owed: {effect:?}");
            assert!(!before.contains(effect), "emitted twice: {effect:?}");
        }
        for effect in &after {
            assert!(
                before.contains(effect) || new.contains(effect),
                "owed but never emitted: {effect:?}"
            );
            if let Effect::Send {
                step,
                direction,
                token,
                ..
            } = effect
            {
                let command = build_command("saga", &self.state, *step, *direction, self.now)
                    .expect("a command");
                assert_eq!(command.lease_token, *token);
                assert!(self.state.awaits(*step, *direction, *token));
            }
        }
        assert!(
            !self.state.has_ended() || after.is_empty(),
            "an ended saga owes nothing"
        );
    }

    /// Everything that was recorded, applied anew, gives the same saga.
    pub(super) fn check_replay(&self) {
        let mut again = SagaState::new();
        for event in &self.events {
            evolve(&mut again, event, &self.plan).expect("a replay");
        }
        assert_eq!(again, self.state, "replay gives the same state");
    }

    /// Decides and expects something to change.
    pub(super) fn ok(&mut self, command: Command) -> Vec<String> {
        let transitions = self
            .act(command.clone())
            .unwrap_or_else(|refusal| panic!("{refusal}: {command:?}"));
        assert!(!transitions.is_empty(), "nothing changed: {command:?}");
        self.check_replay();
        transitions.iter().map(show).collect()
    }

    /// Decides and expects that nothing changes.
    pub(super) fn nothing(&mut self, command: Command) {
        assert_eq!(self.act(command.clone()), Ok(Vec::new()), "{command:?}");
    }

    pub(super) fn refused(&mut self, command: Command) -> Refusal {
        self.act(command.clone()).expect_err("a refusal")
    }

    pub(super) fn index(&self, step: &str) -> StepIndex {
        self.plan.index_of(step).expect("a step")
    }

    pub(super) fn phase(&self, step: &str) -> StepPhase {
        self.state.step_phase(self.index(step)).expect("a phase")
    }

    pub(super) fn saga(&self) -> pb::SagaState {
        self.state.saga_state()
    }

    pub(super) fn token(&self, step: &str, direction: Direction) -> u64 {
        self.state
            .newest_attempt(self.index(step), direction)
            .map_or(0, |(_, token)| token)
    }

    /// A result of the newest attempt.
    pub(super) fn result(
        &self,
        step: &str,
        direction: Direction,
        outcome: result::Outcome,
    ) -> Command {
        self.result_with(step, direction, self.token(step, direction), outcome)
    }

    pub(super) fn result_with(
        &self,
        step: &str,
        direction: Direction,
        lease_token: u64,
        outcome: result::Outcome,
    ) -> Command {
        Command::Result(Box::new(pb::Result {
            lease_token,
            saga_id: "saga".into(),
            step: step.into(),
            direction: direction.into(),
            outcome: Some(outcome),
        }))
    }

    pub(super) fn succeed(&mut self, step: &str) -> Vec<String> {
        let output = success(&format!("out-{step}"));
        self.ok(self.result(step, Action, output))
    }

    pub(super) fn undo(&mut self, step: &str) -> Vec<String> {
        self.ok(self.result(step, Compensation, success("undone")))
    }

    pub(super) fn reject(&mut self, step: &str, direction: Direction) -> Vec<String> {
        self.ok(self.result(step, direction, rejection("NO")))
    }

    pub(super) fn fail(&mut self, step: &str, direction: Direction) -> Vec<String> {
        self.ok(self.result(step, direction, transient("BUSY")))
    }

    pub(super) fn time_out(&mut self, step: &str, direction: Direction) -> Vec<String> {
        let command = self.timeout_of(step, direction);
        self.ok(command)
    }

    pub(super) fn timeout_of(&self, step: &str, direction: Direction) -> Command {
        Command::AttemptTimedOut {
            step: self.index(step),
            direction,
            token: self.token(step, direction),
            cause: UnknownCause::Timeout,
        }
    }

    /// Waits for the step's timer, and fires it.
    pub(super) fn wait(&mut self, step: &str) -> Vec<String> {
        let of = self.index(step);
        let timer = outstanding(&self.state)
            .into_iter()
            .find_map(|effect| match effect {
                Effect::Timer { at, timer } if concerns(timer, of) => Some((at, timer)),
                _ => None,
            });
        let (at, timer) = timer.expect("a timer");
        self.now = self.now.max(at);
        self.ok(timer.command())
    }

    pub(super) fn operate(&self, step: &str, action: OperatorAction) -> Command {
        Command::Operator {
            step: step.into(),
            action,
            operator: "ada".into(),
            reason: "looked".into(),
            output: Some(text("seen")),
        }
    }

    /// Answers everything kindly until the saga ends.
    pub(super) fn finish(&mut self) {
        for _ in 0..2_000 {
            if self.state.has_ended() {
                self.check_replay();
                return;
            }
            match self.kindly() {
                Some(command) => drop(
                    self.act(command)
                        .unwrap_or_else(|refusal| panic!("{refusal}")),
                ),
                None => panic!(
                    "nothing is owed, but the saga is open: {:?}",
                    describe("saga", &self.state)
                ),
            }
        }
        panic!("the saga does not end: {:?}", describe("saga", &self.state));
    }

    fn kindly(&mut self) -> Option<Command> {
        let owed = outstanding(&self.state);
        for effect in &owed {
            match *effect {
                Effect::Send {
                    step, direction, ..
                } => {
                    return Some(self.result(
                        &self.plan.step(step).name,
                        direction,
                        success("fine"),
                    ));
                }
                Effect::Settle { step, .. } => {
                    return Some(self.timeout_of(&self.plan.step(step).name, Action));
                }
                Effect::Timer { .. } => {}
            }
        }
        let parked = |at: &StepIndex| {
            matches!(
                self.state.step_phase(*at),
                Some(StepPhase::Parked | StepPhase::UndoParked)
            )
        };
        if let Some(step) = self.plan.indices().find(parked) {
            return Some(self.operate(&self.plan.step(step).name, OperatorAction::Retry));
        }
        for step in self.plan.indices() {
            if let (Some(StepPhase::Waiting), Kind::Signal { name, .. }) =
                (self.state.step_phase(step), &self.plan.step(step).kind)
            {
                return Some(Command::Signal {
                    name: name.clone(),
                    signal_id: format!("last-{}", self.events.len()),
                    payload: None,
                });
            }
        }
        let timers = owed.into_iter().filter_map(|effect| match effect {
            Effect::Timer { at, timer } => Some((at, timer)),
            _ => None,
        });
        let (at, timer) = timers.min_by_key(|(at, _)| *at)?;
        self.now = self.now.max(at);
        Some(timer.command())
    }
}

fn concerns(timer: crate::saga::Timer, of: StepIndex) -> bool {
    use crate::saga::Timer;
    match timer {
        Timer::Retry { step, .. } | Timer::Delay { step } | Timer::Signal { step } => step == of,
        Timer::Deadline | Timer::Stall { .. } => false,
    }
}
