//! An independent account of a saga, kept from its events alone, and the promises that they must keep.

use sagamesh_api::saga::v1::{
    Direction, OperatorAction, Phase, SagaEvent, SagaState, transition::Kind as T,
};

use crate::saga::{Plan, StepIndex};

/// What became of one attempt of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Verdict {
    Open,
    Yes,
    No,
    Maybe,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Trace {
    attempts: Vec<Verdict>,
    undo_attempts: u32,
    undo_open: bool,
    waiting: bool,
    done: bool,
    undone: bool,
    leftover: bool,
    /// An operator saw that it did not happen.
    ruled_out: bool,
}

impl Trace {
    fn may_have_happened(&self) -> bool {
        !self.ruled_out && self.attempts.iter().any(|verdict| *verdict != Verdict::No)
    }

    fn open(&self) -> bool {
        self.attempts.last() == Some(&Verdict::Open)
    }
}

/// The account of one saga.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct History {
    steps: Vec<Trace>,
    aborted: bool,
    ended: Option<SagaState>,
}

impl History {
    pub(super) fn new(plan: &Plan) -> History {
        History {
            steps: vec![Trace::default(); plan.steps().len()],
            ..History::default()
        }
    }

    /// What tells histories apart for the promises: not how often something was tried.
    pub(super) fn summary(&self) -> impl std::hash::Hash + use<> {
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|trace| {
                let over = trace.done || trace.undone || trace.leftover;
                [
                    trace.undo_open,
                    over,
                    trace.undone || trace.leftover,
                    trace.may_have_happened(),
                    trace.open(),
                ]
            })
            .collect();
        (steps, self.aborted, self.ended)
    }

    /// Checks an event against everything before it, and adds it.
    pub(super) fn record(&mut self, plan: &Plan, event: &SagaEvent) {
        assert!(
            !event.transitions.is_empty(),
            "an event without transitions"
        );
        for transition in &event.transitions {
            assert_eq!(self.ended, None, "something after the end: {transition:?}");
            self.transition(plan, transition.kind.as_ref().expect("a kind"));
        }
    }

    fn transition(&mut self, plan: &Plan, kind: &T) {
        let index = |name: &str| plan.index_of(name).expect("a step of the plan");
        match kind {
            T::Dispatched(it) => {
                let step = index(&it.step);
                assert_ne!(it.lease_token, 0, "no token");
                if it.direction() == Direction::Action {
                    self.check_action(plan, step);
                    self.at(step).attempts.push(Verdict::Open);
                    assert_eq!(
                        self.at(step).attempts.len(),
                        it.attempt as usize,
                        "attempts are counted"
                    );
                } else {
                    self.check_compensation(plan, step);
                    self.at(step).undo_open = true;
                    self.at(step).undo_attempts += 1;
                    assert_eq!(
                        self.at(step).undo_attempts,
                        it.attempt,
                        "attempts are counted"
                    );
                }
            }
            T::Succeeded(it) => self.verdict(index(&it.step), it.direction(), Verdict::Yes),
            T::Rejected(it) => self.verdict(index(&it.step), it.direction(), Verdict::No),
            T::Failed(it) => self.verdict(index(&it.step), it.direction(), Verdict::No),
            T::OutcomeUnknown(it) => self.verdict(index(&it.step), it.direction(), Verdict::Maybe),
            T::DelayStarted(it) => self.check_wait(plan, index(&it.step)),
            T::SignalAwaited(it) => self.check_wait(plan, index(&it.step)),
            T::Aborted(_) => {
                assert!(!self.aborted, "aborted twice");
                self.aborted = true;
                let pivot = plan.pivot().map(|pivot| &self.steps[usize::from(pivot)]);
                assert!(
                    pivot.is_none_or(|pivot| !pivot.may_have_happened()),
                    "aborted although the pivot may have happened"
                );
            }
            T::OperatorActed(it) => {
                let trace = self.at(index(&it.step));
                match (it.action(), it.direction()) {
                    (OperatorAction::Skip, Direction::Compensation) => trace.leftover = true,
                    (OperatorAction::ResolveSucceeded, Direction::Compensation) => {
                        trace.undone = true
                    }
                    (OperatorAction::Skip | OperatorAction::ResolveSucceeded, _) => {
                        trace.done = true
                    }
                    (OperatorAction::ResolveRejected, _) => trace.ruled_out = true,
                    _ => {}
                }
            }
            T::Ended(it) => {
                self.check_end(plan, it.state(), &it.leftovers);
                self.ended = Some(it.state());
            }
            _ => {}
        }
    }

    fn at(&mut self, step: StepIndex) -> &mut Trace {
        &mut self.steps[usize::from(step)]
    }

    fn verdict(&mut self, step: StepIndex, direction: Direction, verdict: Verdict) {
        let trace = self.at(step);
        if direction == Direction::Compensation {
            trace.undo_open = false;
            trace.undone |= verdict == Verdict::Yes;
            return;
        }
        trace.done |= verdict == Verdict::Yes;
        match trace.attempts.last_mut() {
            Some(newest) => {
                assert!(
                    matches!(newest, Verdict::Open | Verdict::Maybe),
                    "an attempt was counted twice"
                );
                *newest = verdict;
            }
            None => assert!(trace.waiting, "an outcome without an attempt or a wait"),
        }
    }

    fn check_wait(&mut self, plan: &Plan, step: StepIndex) {
        self.check_ready(plan, step);
        self.at(step).waiting = true;
    }

    fn check_action(&self, plan: &Plan, step: StepIndex) {
        self.check_ready(plan, step);
        assert!(
            !self.steps[usize::from(step)].open(),
            "two attempts at once"
        );
    }

    fn check_ready(&self, plan: &Plan, step: StepIndex) {
        assert!(!self.aborted, "released forward after the abort");
        assert!(
            !self.steps[usize::from(step)].done,
            "released after it was done"
        );
        for earlier in plan.step(step).after.iter() {
            assert!(
                self.steps[usize::from(earlier)].done,
                "released before its predecessors were done"
            );
        }
    }

    fn check_compensation(&self, plan: &Plan, step: StepIndex) {
        assert!(self.aborted, "undone without an abort");
        assert_eq!(
            plan.step(step).phase,
            Phase::Compensatable,
            "undone without a compensation"
        );
        let trace = &self.steps[usize::from(step)];
        assert!(
            trace.may_have_happened(),
            "undone although it surely never happened"
        );
        assert!(!trace.open(), "undone while it may still be doing");
        assert!(
            !trace.undo_open && !trace.undone && !trace.leftover,
            "undone twice"
        );
        if let Some(pivot) = plan.pivot() {
            assert!(
                !self.steps[usize::from(pivot)].may_have_happened(),
                "undone after the pivot"
            );
        }
        for later in plan.step(step).descendants.iter() {
            let behind = &self.steps[usize::from(later)];
            assert!(!behind.open(), "undone before a later step was settled");
            let needs =
                plan.step(later).phase == Phase::Compensatable && behind.may_have_happened();
            assert!(
                !needs || behind.undone || behind.leftover,
                "undone before a later step was undone"
            );
        }
    }

    fn check_end(&self, plan: &Plan, state: SagaState, leftovers: &[String]) {
        let names = || plan.steps().iter().zip(&self.steps);
        let left: Vec<&String> = names()
            .filter(|(_, trace)| trace.leftover)
            .map(|(step, _)| &step.name)
            .collect();
        assert_eq!(leftovers.iter().collect::<Vec<_>>(), left, "the leftovers");
        if !self.aborted {
            assert_eq!(state, SagaState::Completed);
            assert!(
                self.steps.iter().all(|trace| trace.done),
                "completed with steps open"
            );
            return;
        }
        let expected = if left.is_empty() {
            SagaState::Compensated
        } else {
            SagaState::CompensatedWithLeftovers
        };
        assert_eq!(state, expected);
        for (step, trace) in names() {
            assert!(
                !trace.open() && !trace.undo_open,
                "ended with an attempt under way"
            );
            if step.phase != Phase::Compensatable {
                continue;
            }
            assert_eq!(
                trace.may_have_happened(),
                trace.undone || trace.leftover,
                "compensated exactly if it may have happened"
            );
            assert!(
                trace.may_have_happened() || trace.undo_attempts == 0,
                "undone for nothing"
            );
        }
    }
}
