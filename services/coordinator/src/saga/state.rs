//! What is known of one saga.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sagamesh_api::saga::v1::{self as pb, Direction, Failure, Phase, Value};

use super::evolve::Fault;
use super::plan::{Plan, StepIndex};
use super::table::{Facts, StepPhase};

/// Earlier lease tokens that are remembered, so that a late result can be told from garbage.
pub(super) const OLD_TOKENS: usize = 32;

/// One saga. Made by [`SagaState::new`], changed by [`super::evolve()`] alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SagaState {
    pub(super) run: Option<Box<Run>>,
    pub(super) version: u64,
    pub(super) fault: Option<Fault>,
}

/// A saga that was started.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) plan: Arc<Plan>,
    pub(super) core: Core,
    pub(super) input: BTreeMap<String, Value>,
    pub(super) search_attributes: BTreeMap<String, String>,
    pub(super) traceparent: String,
    pub(super) parent_span_id: u64,
    pub(super) shard: i64,
    pub(super) outputs: Vec<(StepIndex, Value)>,
    pub(super) failures: Vec<(StepIndex, Failure)>,
    pub(super) signals: Vec<KeptSignal>,
    pub(super) old_tokens: Vec<OldToken>,
    pub(super) aborted: Option<pb::Aborted>,
}

impl Run {
    pub(super) fn kept_bytes(&self) -> usize {
        let signals = self.signals.iter().filter(|signal| !signal.taken);
        let outputs = self.outputs.iter().map(|(_, output)| output);
        let values = self.input.values().chain(outputs);
        values
            .chain(signals.filter_map(|signal| signal.payload.as_ref()))
            .map(prost::Message::encoded_len)
            .sum()
    }
}

/// The part that decisions work on: small, and without text, so that a decision can try its own transitions on a copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Core {
    pub(super) cells: Vec<Cell>,
    pub(super) start: i64,
    pub(super) deadline: Option<i64>,
    pub(super) end: Option<i64>,
    pub(super) ended: Option<pb::SagaState>,
    pub(super) aborting: bool,
    pub(super) cancelled: bool,
    pub(super) pivot_dispatched: bool,
    pub(super) deadline_missed: bool,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cell {
    pub(super) phase: StepPhase,
    /// The newest attempt of each direction.
    pub(super) action: Attempt,
    pub(super) undo: Attempt,
    /// Attempts of each direction so far.
    pub(super) attempts: u32,
    pub(super) undo_attempts: u32,
    /// Attempts of the current direction before the operator's last retry.
    pub(super) base: u32,
    /// When the first attempt since then was released.
    pub(super) since: i64,
    /// When the current wait is over.
    pub(super) until: i64,
    /// An attempt of the action before the newest one may have happened.
    pub(super) older_unknown: bool,
    pub(super) stalled: bool,
}

/// An attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub(super) token: u64,
    pub(super) outcome: Outcome,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// There was none.
    None,
    /// Not known yet.
    Open,
    /// Given up without a definite outcome. A late definite one still counts.
    Unknown,
    /// Its result was counted.
    Counted,
    /// Its result was refused, because the step was settled otherwise.
    Refused,
}

/// A signal that came.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KeptSignal {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) payload: Option<Value>,
    /// A step took it.
    pub(super) taken: bool,
}

/// Token of an attempt that is not the newest any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OldToken {
    pub(super) step: StepIndex,
    pub(super) direction: Direction,
    pub(super) token: u64,
}

impl Cell {
    pub(super) const NEW: Cell = Cell {
        phase: StepPhase::Pending,
        action: Attempt::NONE,
        undo: Attempt::NONE,
        attempts: 0,
        undo_attempts: 0,
        base: 0,
        since: 0,
        until: 0,
        older_unknown: false,
        stalled: false,
    };

    pub(super) fn attempt(&self, direction: Direction) -> Attempt {
        match direction {
            Direction::Compensation => self.undo,
            _ => self.action,
        }
    }

    pub(super) fn attempt_mut(&mut self, direction: Direction) -> &mut Attempt {
        match direction {
            Direction::Compensation => &mut self.undo,
            _ => &mut self.action,
        }
    }

    pub(super) fn count(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Compensation => self.undo_attempts,
            _ => self.attempts,
        }
    }

    /// Some attempt of the action may have happened without our knowing.
    pub(super) fn tainted(&self) -> bool {
        self.older_unknown || self.action.outcome == Outcome::Unknown
    }
}

impl Attempt {
    const NONE: Attempt = Attempt {
        token: 0,
        outcome: Outcome::None,
    };
}

impl Core {
    pub(super) fn new(steps: usize, start: i64, deadline: Option<i64>) -> Core {
        Core {
            cells: vec![Cell::NEW; steps],
            start,
            deadline,
            end: None,
            ended: None,
            aborting: false,
            cancelled: false,
            pivot_dispatched: false,
            deadline_missed: false,
        }
    }

    pub(super) fn cell(&self, step: StepIndex) -> &Cell {
        &self.cells[usize::from(step)]
    }

    pub(super) fn facts(&self, role: Phase, step: StepIndex) -> Facts {
        Facts {
            role,
            aborting: self.aborting,
            tainted: self.cell(step).tainted(),
        }
    }
}

impl SagaState {
    /// A saga that was not started.
    pub fn new() -> SagaState {
        SagaState::default()
    }

    /// Number of events in its history.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// It was started.
    pub fn exists(&self) -> bool {
        self.run.is_some()
    }

    /// It has ended.
    pub fn has_ended(&self) -> bool {
        self.core().is_some_and(|core| core.ended.is_some())
    }

    /// Its history does not fit its definition: it cannot go on. In words.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// What it runs.
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        self.run.as_ref().map(|run| &run.plan)
    }

    /// When it was started.
    pub fn start_millis(&self) -> Option<i64> {
        self.core().map(|core| core.start)
    }

    /// When it ended.
    pub fn end_millis(&self) -> Option<i64> {
        self.core().and_then(|core| core.end)
    }

    /// When it must have ended.
    pub fn deadline(&self) -> Option<i64> {
        self.core().and_then(|core| core.deadline)
    }

    /// It is being, or was, undone.
    pub fn is_aborting(&self) -> bool {
        self.core().is_some_and(|core| core.aborting)
    }

    /// The deadline passed after the point of no return.
    pub fn deadline_missed(&self) -> bool {
        self.core().is_some_and(|core| core.deadline_missed)
    }

    /// The pivot was dispatched, and was not definitely rejected.
    pub fn pivot_dispatched(&self) -> bool {
        self.core()
            .is_some_and(|core| core.pivot_dispatched && !core.aborting)
    }

    /// Its search attributes.
    pub fn search_attributes(&self) -> Option<&BTreeMap<String, String>> {
        self.run.as_ref().map(|run| &run.search_attributes)
    }

    /// W3C traceparent that its commands continue.
    pub fn traceparent(&self) -> &str {
        self.run.as_ref().map_or("", |run| &run.traceparent)
    }

    /// The parent of the saga's own span; 0 if it has none.
    pub fn parent_span_id(&self) -> u64 {
        self.run.as_ref().map_or(0, |run| run.parent_span_id)
    }

    /// The shard it belongs to.
    pub fn shard(&self) -> Option<i64> {
        self.run.as_ref().map(|run| run.shard)
    }

    /// Its definition is not known here, or not yet.
    pub fn is_unreadable(&self) -> bool {
        self.run.is_none() && self.fault.is_some()
    }

    /// Why it is or was undone.
    pub fn aborted(&self) -> Option<&pb::Aborted> {
        self.run.as_ref().and_then(|run| run.aborted.as_ref())
    }

    /// Where it stands: ended, parked, compensating or running.
    pub fn saga_state(&self) -> pb::SagaState {
        let Some(core) = self.core() else {
            return pb::SagaState::Unspecified;
        };
        let parked = |cell: &Cell| matches!(cell.phase, StepPhase::Parked | StepPhase::UndoParked);
        match core.ended {
            Some(ended) => ended,
            None if core.cells.iter().any(parked) => pb::SagaState::Parked,
            None if core.aborting => pb::SagaState::Compensating,
            None => pb::SagaState::Running,
        }
    }

    /// Where a step stands.
    pub fn step_phase(&self, step: StepIndex) -> Option<StepPhase> {
        self.core()
            .and_then(|core| core.cells.get(usize::from(step)))
            .map(|cell| cell.phase)
    }

    /// The newest attempt of a step in a direction: its number and its token.
    pub fn newest_attempt(&self, step: StepIndex, direction: Direction) -> Option<(u32, u64)> {
        let cell = self.core()?.cells.get(usize::from(step))?;
        let count = cell.count(direction);
        (count > 0).then(|| (count, cell.attempt(direction).token))
    }

    /// The attempt is the one whose result is awaited now.
    pub fn awaits(&self, step: StepIndex, direction: Direction, token: u64) -> bool {
        let phase = match direction {
            Direction::Compensation => StepPhase::Compensating,
            _ => StepPhase::Running,
        };
        self.core()
            .and_then(|core| core.cells.get(usize::from(step)))
            .is_some_and(|cell| cell.phase == phase && cell.attempt(direction).token == token)
    }

    /// The output of a step.
    pub fn output(&self, step: StepIndex) -> Option<&Value> {
        let outputs = &self.run.as_ref()?.outputs;
        outputs
            .iter()
            .find(|(of, _)| *of == step)
            .map(|(_, value)| value)
    }

    /// Bytes of what it was given: its input, its steps' outputs, signals that no step took yet.
    pub fn kept_bytes(&self) -> usize {
        self.run.as_deref().map_or(0, Run::kept_bytes)
    }

    /// Steps whose compensation was given up.
    pub fn leftovers(&self) -> Vec<String> {
        self.named(|cell| cell.phase == StepPhase::Leftover)
    }

    /// Steps that are parked or stalled.
    pub fn attention(&self) -> Vec<String> {
        if self.has_ended() {
            return Vec::new();
        }
        self.named(|cell| {
            cell.stalled || matches!(cell.phase, StepPhase::Parked | StepPhase::UndoParked)
        })
    }

    pub(super) fn named(&self, wanted: impl Fn(&Cell) -> bool) -> Vec<String> {
        let Some(run) = &self.run else {
            return Vec::new();
        };
        let pairs = run.plan.steps().iter().zip(&run.core.cells);
        pairs
            .filter(|(_, cell)| wanted(cell))
            .map(|(step, _)| step.name.clone())
            .collect()
    }

    pub(super) fn core(&self) -> Option<&Core> {
        self.run.as_ref().map(|run| &run.core)
    }

    pub(super) fn cell(&self, step: StepIndex) -> Cell {
        self.core()
            .and_then(|core| core.cells.get(usize::from(step)).copied())
            .unwrap_or(Cell::NEW)
    }

    pub(super) fn step_index(&self, name: &str) -> Option<StepIndex> {
        self.plan().and_then(|plan| plan.index_of(name))
    }

    pub(super) fn indices(&self) -> Range<StepIndex> {
        self.plan().map_or(0..0, |plan| plan.indices())
    }
}
