//! A definition compiled for execution: steps by index, sets as bits, times in milliseconds.

use std::fmt;

use sagamesh_api::saga::v1::{self as pb, Definition, Phase, step};

use super::definition::{hash, normalise};
use super::time::duration_millis;
use super::validate::{Violation, validate};

/// Place of a step in its definition: below 64.
pub type StepIndex = u8;

/// A set of steps.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StepSet(pub u64);

impl StepSet {
    /// Whether `step` is in it.
    pub fn contains(self, step: StepIndex) -> bool {
        self.0 & (1 << step) != 0
    }

    /// Adds `step`.
    pub fn insert(&mut self, step: StepIndex) {
        self.0 |= 1 << step;
    }

    /// Whether all of `self` is in `other`.
    pub fn is_subset(self, other: StepSet) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its steps, in order.
    pub fn iter(self) -> impl Iterator<Item = StepIndex> {
        (0..64u8).filter(move |step| self.contains(*step))
    }
}

impl fmt::Debug for StepSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A validated, normalised definition, ready to run. Immutable: sagas share it.
#[derive(Debug)]
pub struct Plan {
    definition: Definition,
    hash: String,
    steps: Vec<PlanStep>,
    deadline_millis: Option<i64>,
    pivot: Option<StepIndex>,
}

/// One step of a plan.
#[derive(Debug)]
pub struct PlanStep {
    /// Its name.
    pub name: String,
    /// Its phase.
    pub phase: Phase,
    /// What it does.
    pub kind: Kind,
    /// Steps named in `after`.
    pub after: StepSet,
    /// All steps before it.
    pub ancestors: StepSet,
    /// All steps after it.
    pub descendants: StepSet,
}

impl PlanStep {
    /// The call, if it is one.
    pub fn call(&self) -> Option<&CallPlan> {
        match &self.kind {
            Kind::Call(call) => Some(call),
            _ => None,
        }
    }
}

/// What a step does.
#[derive(Debug)]
pub enum Kind {
    /// Asks a participant.
    Call(Box<CallPlan>),
    /// Waits for a time.
    Delay {
        /// How long.
        millis: i64,
    },
    /// Waits for a signal.
    Signal {
        /// Name of the signal.
        name: String,
        /// How long at most; `None` for ever.
        timeout_millis: Option<i64>,
    },
}

/// A call, with all defaults filled.
#[derive(Debug)]
pub struct CallPlan {
    /// Name of the participant.
    pub participant: String,
    /// Name of the action.
    pub action: String,
    /// Name of the compensation; on COMPENSATABLE steps.
    pub compensation: Option<String>,
    /// The longest that one attempt may take.
    pub timeout_millis: i64,
    /// When to try the action again.
    pub retry: Retry,
    /// When to try the compensation again.
    pub compensation_retry: Retry,
    /// Input fields that the command carries.
    pub input_fields: Vec<String>,
    /// Steps whose outputs the command carries.
    pub outputs_of: Vec<StepIndex>,
    /// The longest silence of a running attempt.
    pub heartbeat_timeout_millis: Option<i64>,
    /// From the pivot on: when to raise an alarm.
    pub stalled_after_millis: i64,
}

/// A retry policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Most attempts.
    pub max_attempts: u32,
    /// Backoff after the first.
    pub initial_millis: i64,
    /// Longest backoff.
    pub max_millis: i64,
    /// Growth per attempt.
    pub multiplier: f64,
}

impl Retry {
    /// The backoff after `attempt` (from 1): between half and all of the exponential time, by `seed`.
    pub fn backoff_millis(&self, attempt: u32, seed: u64) -> i64 {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let full = (self.initial_millis as f64 * self.multiplier.powi(exponent))
            .min(self.max_millis as f64) as i64;
        let half = full / 2;
        let spread = u64::try_from(full - half).unwrap_or(0) + 1;
        half + i64::try_from(seed % spread).unwrap_or(0)
    }

    fn of(policy: Option<&pb::RetryPolicy>) -> Retry {
        let policy = policy.copied().unwrap_or_default();
        Retry {
            max_attempts: policy.max_attempts,
            initial_millis: policy.initial_backoff.as_ref().map_or(0, duration_millis),
            max_millis: policy.max_backoff.as_ref().map_or(0, duration_millis),
            multiplier: policy.multiplier,
        }
    }
}

impl Plan {
    /// Normalises, validates and compiles. Whether participants are known is not asked: see [`validate()`].
    pub fn compile(definition: &Definition) -> Result<Plan, Vec<Violation>> {
        let violations = validate(definition, None);
        if !violations.is_empty() {
            return Err(violations);
        }
        let definition = normalise(definition);
        let hash = hash(&definition);
        let after = after_sets(&definition);
        let ancestors = closure(&after);
        let steps: Vec<PlanStep> = definition
            .steps
            .iter()
            .enumerate()
            .map(|(at, step)| PlanStep {
                name: step.name.clone(),
                phase: step.phase(),
                kind: kind(&definition, step),
                after: after[at],
                ancestors: ancestors[at],
                descendants: descendants(&ancestors, at),
            })
            .collect();
        let pivot = steps
            .iter()
            .position(|step| step.phase == Phase::Pivot)
            .and_then(|at| StepIndex::try_from(at).ok());
        Ok(Plan {
            deadline_millis: definition.deadline.as_ref().map(duration_millis),
            definition,
            hash,
            steps,
            pivot,
        })
    }

    /// Name of the definition.
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// Hash of the normalised content.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The normalised definition.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Its steps, in the definition's order.
    pub fn steps(&self) -> &[PlanStep] {
        &self.steps
    }

    /// One step. Panics if it is not one of this plan.
    pub fn step(&self, step: StepIndex) -> &PlanStep {
        &self.steps[usize::from(step)]
    }

    /// The step of this name.
    pub fn index_of(&self, name: &str) -> Option<StepIndex> {
        self.steps
            .iter()
            .position(|step| step.name == name)
            .and_then(|at| StepIndex::try_from(at).ok())
    }

    /// All indices.
    pub fn indices(&self) -> std::ops::Range<StepIndex> {
        0..StepIndex::try_from(self.steps.len()).unwrap_or(64)
    }

    /// The definition's deadline for a saga.
    pub fn deadline_millis(&self) -> Option<i64> {
        self.deadline_millis
    }

    /// How long an ended saga is kept.
    pub fn retention_millis(&self) -> i64 {
        self.definition
            .retention
            .as_ref()
            .map_or(0, duration_millis)
    }

    /// The pivot.
    pub fn pivot(&self) -> Option<StepIndex> {
        self.pivot
    }

    /// Whether a step waits for signals of this name.
    pub fn waits_for_signal(&self, signal: &str) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(&step.kind, Kind::Signal { name, .. } if name == signal))
    }
}

impl PartialEq for Plan {
    fn eq(&self, other: &Plan) -> bool {
        self.hash == other.hash
    }
}

fn kind(definition: &Definition, step: &pb::Step) -> Kind {
    match &step.kind {
        Some(step::Kind::Delay(delay)) => Kind::Delay {
            millis: delay.duration.as_ref().map_or(0, duration_millis),
        },
        Some(step::Kind::Signal(signal)) => Kind::Signal {
            name: signal.name.clone(),
            timeout_millis: signal.timeout.as_ref().map(duration_millis),
        },
        Some(step::Kind::Call(call)) => Kind::Call(Box::new(call_plan(definition, call))),
        None => Kind::Call(Box::new(call_plan(definition, &pb::Call::default()))),
    }
}

fn call_plan(definition: &Definition, call: &pb::Call) -> CallPlan {
    CallPlan {
        participant: call.participant.clone(),
        action: call.action.clone(),
        compensation: (!call.compensation.is_empty()).then(|| call.compensation.clone()),
        timeout_millis: call.timeout.as_ref().map_or(0, duration_millis),
        retry: Retry::of(call.retry.as_ref()),
        compensation_retry: Retry::of(call.compensation_retry.as_ref()),
        input_fields: call.input_fields.clone(),
        outputs_of: call
            .outputs_of
            .iter()
            .filter_map(|name| position(definition, name))
            .collect(),
        heartbeat_timeout_millis: call.heartbeat_timeout.as_ref().map(duration_millis),
        stalled_after_millis: call
            .stalled_after
            .as_ref()
            .map_or(i64::MAX, duration_millis),
    }
}

fn position(definition: &Definition, name: &str) -> Option<StepIndex> {
    definition
        .steps
        .iter()
        .position(|step| step.name == name)
        .and_then(|at| StepIndex::try_from(at).ok())
}

/// The `after` sets of a definition of at most 64 steps; unknown names are left out.
pub(super) fn after_sets(definition: &Definition) -> Vec<StepSet> {
    definition
        .steps
        .iter()
        .map(|step| {
            let mut set = StepSet::default();
            for index in step
                .after
                .iter()
                .filter_map(|name| position(definition, name))
            {
                set.insert(index);
            }
            set
        })
        .collect()
}

/// All ancestors of each step. A step on a cycle is its own ancestor.
pub(super) fn closure(after: &[StepSet]) -> Vec<StepSet> {
    let mut ancestors = after.to_vec();
    loop {
        let mut grown = false;
        for at in 0..ancestors.len() {
            let wider = ancestors[at].iter().fold(ancestors[at].0, |set, earlier| {
                set | ancestors[usize::from(earlier)].0
            });
            grown |= wider != ancestors[at].0;
            ancestors[at] = StepSet(wider);
        }
        if !grown {
            return ancestors;
        }
    }
}

fn descendants(ancestors: &[StepSet], of: usize) -> StepSet {
    let mut set = StepSet::default();
    for (at, before) in ancestors.iter().enumerate() {
        if before.0 & (1 << of) != 0 {
            set.0 |= 1 << at;
        }
    }
    set
}
