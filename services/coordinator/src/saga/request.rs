//! What may be asked of a saga, and how it says no.

use std::collections::BTreeMap;
use std::sync::Arc;

use sagamesh_api::saga::v1::{
    self as pb, Direction, OperatorAction, ResultStatus, Transition, UnknownCause, transition,
};

use super::plan::{Plan, StepIndex};

/// Something that happened to a saga, or that somebody wants of it. Steps that the coordinator itself names are indices
/// of the plan.
#[derive(Clone, Debug)]
pub enum Command {
    /// Start it.
    Start(Box<Start>),
    /// A participant's result.
    Result(Box<pb::Result>),
    /// The newest attempt gave no sign within its timeout or heartbeat timeout.
    AttemptTimedOut {
        /// The step.
        step: StepIndex,
        /// Which direction.
        direction: Direction,
        /// Token of the attempt.
        token: u64,
        /// `Timeout` or `HeartbeatLost`.
        cause: UnknownCause,
    },
    /// The attempt was taken out of its queue before it was ever written to a stream: it surely did nothing.
    NeverSent {
        /// The step.
        step: StepIndex,
        /// Which direction.
        direction: Direction,
        /// Token of the attempt.
        token: u64,
    },
    /// A backoff is over.
    RetryDue {
        /// The step.
        step: StepIndex,
        /// Which direction.
        direction: Direction,
    },
    /// A DELAY step is over.
    DelayDue {
        /// The step.
        step: StepIndex,
    },
    /// A SIGNAL step waited long enough.
    SignalTimeout {
        /// The step.
        step: StepIndex,
    },
    /// A signal from outside.
    Signal {
        /// Its name.
        name: String,
        /// Its id: the same one counts once.
        signal_id: String,
        /// What it carries.
        payload: Option<pb::Value>,
    },
    /// Somebody wants it undone.
    Cancel {
        /// Who.
        requester: String,
        /// Why.
        reason: String,
    },
    /// The saga's deadline passed.
    DeadlineReached,
    /// `stalled_after` of a step passed.
    StallCheck {
        /// The step.
        step: StepIndex,
    },
    /// An operator acts.
    Operator {
        /// Name of the step; empty for every parked or stalled step that the action fits.
        step: String,
        /// What to do.
        action: OperatorAction,
        /// Who.
        operator: String,
        /// Why.
        reason: String,
        /// Output for RESOLVE_SUCCEEDED.
        output: Option<pb::Value>,
    },
}

/// How a saga starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// What it runs.
    pub plan: Arc<Plan>,
    /// Whether the client named the version. If not, a repeated start need not be for the same one.
    pub version_chosen: bool,
    /// Its input.
    pub input: BTreeMap<String, pb::Value>,
    /// Attributes to find it by.
    pub search_attributes: BTreeMap<String, String>,
    /// Overrides the definition's deadline: milliseconds from the start.
    pub deadline_millis: Option<i64>,
    /// W3C traceparent that its commands continue.
    pub traceparent: String,
    /// The span of the request, if `traceparent` is that of a span of the saga's own; otherwise 0.
    pub parent_span_id: u64,
    /// The shard that it will belong to.
    pub shard: i64,
}

#[cfg(test)]
impl Start {
    /// A start with nothing but its plan.
    pub(crate) fn plain(plan: &Arc<Plan>) -> Self {
        Self {
            plan: Arc::clone(plan),
            version_chosen: false,
            input: BTreeMap::new(),
            search_attributes: BTreeMap::new(),
            deadline_millis: None,
            traceparent: String::new(),
            parent_span_id: 0,
            shard: 0,
        }
    }
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No saga has this id.
    #[error("there is no such saga: start it first")]
    NotStarted,
    /// The id is taken by a saga with other content.
    #[error("a saga with this id but another {0} exists already: choose another id")]
    IdReused(&'static str),
    /// It has ended.
    #[error("the saga has ended: nothing can be changed any more")]
    Ended,
    /// It is past the point of no return.
    #[error("the saga's pivot was dispatched: it can only go forward")]
    PivotDispatched,
    /// It is being undone.
    #[error("the saga is being undone: it takes no signals any more")]
    Aborting,
    /// The attempt is not the newest, or does not count any more.
    #[error("the attempt with this lease token no longer counts")]
    Superseded,
    /// The definition has no such step.
    #[error("the saga's definition has no step {0:?}")]
    UnknownStep(String),
    /// The step is not one that a participant does.
    #[error("step {0:?} has no attempts in that direction")]
    NoAttempts(String),
    /// A result without an outcome.
    #[error("the result has no outcome: set success, rejection, transient or unknown")]
    NoOutcome,
    /// No step waits for this signal.
    #[error("no step of the saga's definition waits for a signal named {0:?}")]
    UnknownSignal(String),
    /// It keeps too many signals already.
    #[error("the saga keeps {0} signals already, the most that it may")]
    TooManySignals(usize),
    /// It would keep too much.
    #[error(
        "the saga keeps {kept} bytes of input, outputs and signals, and may keep {most}: keep large data elsewhere and pass a reference"
    )]
    TooLarge {
        /// Bytes that it keeps.
        kept: usize,
        /// Bytes that it may keep.
        most: usize,
    },
    /// The operator's action does not fit the step.
    #[error("step {step:?} cannot be acted on: {why}")]
    NotResolvable {
        /// Name of the step.
        step: String,
        /// Why, with what to do instead.
        why: &'static str,
    },
    /// A timer came early.
    #[error("too early: due at {due} ms since 1970")]
    TooEarly {
        /// When to ask again.
        due: i64,
    },
    /// Its history does not fit its definition.
    #[error("the saga's history cannot be read: {0}")]
    Corrupt(String),
    /// A newer program has written something into its history that this one does not know.
    #[error("{0}")]
    Newer(String),
}

impl Refusal {
    /// Machine-readable reason for `google.rpc.ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::NotStarted => "SAGA_NOT_FOUND",
            Refusal::IdReused(_) => "SAGA_ID_REUSED",
            Refusal::Ended => "SAGA_ENDED",
            Refusal::PivotDispatched => "PIVOT_DISPATCHED",
            Refusal::Aborting => "SAGA_COMPENSATING",
            Refusal::Superseded => "ATTEMPT_SUPERSEDED",
            Refusal::UnknownStep(_) => "STEP_NOT_FOUND",
            Refusal::NoAttempts(_) => "STEP_HAS_NO_ATTEMPTS",
            Refusal::NoOutcome => "RESULT_WITHOUT_OUTCOME",
            Refusal::UnknownSignal(_) => "SIGNAL_UNKNOWN",
            Refusal::TooManySignals(_) => "TOO_MANY_SIGNALS",
            Refusal::TooLarge { .. } => "SAGA_TOO_LARGE",
            Refusal::NotResolvable { .. } => "STEP_NOT_RESOLVABLE",
            Refusal::TooEarly { .. } => "TIMER_EARLY",
            Refusal::Corrupt(_) => "SAGA_HISTORY_CORRUPT",
            Refusal::Newer(_) => "SAGA_NEEDS_NEWER_VERSION",
        }
    }
}

/// What to tell the participant about the result that was decided on.
pub fn result_status(decided: &Result<Vec<Transition>, Refusal>) -> ResultStatus {
    match decided {
        Ok(transitions) => match transitions.first().and_then(|first| first.kind.as_ref()) {
            None => ResultStatus::Duplicate,
            Some(transition::Kind::Superseded(_)) => ResultStatus::Superseded,
            Some(_) => ResultStatus::Accepted,
        },
        Err(Refusal::Superseded) => ResultStatus::Superseded,
        Err(_) => ResultStatus::Invalid,
    }
}
