//! What a handler receives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sagamesh_api::saga::v1::{Direction, Value, value::Kind};
use serde::de::DeserializeOwned;

use crate::Outcome;
use crate::barrier::Key;
use crate::link::Beats;

/// The longest progress text that a coordinator takes, in characters.
const MAX_DETAILS: usize = 256;

/// One attempt at one step: what to do, or to undo, and with what.
#[derive(Debug, Clone)]
pub struct StepCommand {
    /// Id of the saga.
    pub saga_id: String,
    /// Name of the step.
    pub step: String,
    /// Whether to do or undo.
    pub direction: Direction,
    /// Name of the action or compensation.
    pub action: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Identity of this attempt.
    pub lease_token: u64,
    /// The handler is given up after this long.
    pub timeout: Duration,
    /// Unix milliseconds: an action must not take effect later. The barrier checks it inside the transaction.
    pub not_after: Option<i64>,
    /// The input fields that the definition lists for this step.
    pub input: BTreeMap<String, Value>,
    /// The outputs of earlier steps that the definition lists, by step name.
    pub outputs: BTreeMap<String, Value>,
    /// On a compensation: the output of the action, if it is known.
    pub action_output: Option<Value>,
    /// The W3C traceparent that the handler's span continues.
    pub traceparent: String,
    /// Tells the coordinator that the attempt is alive.
    pub heartbeat: HeartbeatHandle,
}

impl StepCommand {
    /// What the barrier needs to know of this command.
    #[must_use]
    pub fn key(&self) -> Key {
        Key {
            saga_id: self.saga_id.clone(),
            step: self.step.clone(),
            direction: self.direction,
            not_after: self.not_after,
        }
    }

    /// The key for effects outside: the same for every attempt of this step in this direction.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!(
            "{}/{}/{}",
            self.saga_id,
            self.step,
            direction_name(self.direction)
        )
    }

    /// An input field that is text.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        self.input.get(field).and_then(as_text)
    }

    /// An input field that must be there as text; otherwise the rejection to answer with.
    pub fn required(&self, field: &str) -> Result<&str, Outcome> {
        self.text(field).ok_or_else(|| {
            Outcome::rejected(
                "INPUT_MISSING",
                format!("`{}` needs the input field `{field}` as text; list it in the step's input_fields", self.action),
            )
        })
    }

    /// An input field that must be there as JSON of type `T`; otherwise the rejection to answer with.
    pub fn json<T: DeserializeOwned>(&self, field: &str) -> Result<T, Outcome> {
        serde_json::from_str(self.required(field)?).map_err(|error| {
            Outcome::rejected(
                "INPUT_INVALID",
                format!("input field `{field}` of `{}`: {error}", self.action),
            )
        })
    }

    /// The output of an earlier step, if it is text.
    #[must_use]
    pub fn output_of(&self, step: &str) -> Option<&str> {
        self.outputs.get(step).and_then(as_text)
    }

    /// Tells the coordinator that this attempt is alive, and how far it came: at most 256 characters, the rest is cut. Of
    /// several in a row the last is enough, and the others may stay behind.
    pub fn heartbeat(&self, details: &str) {
        self.heartbeat.beat(details);
    }
}

/// Sends heartbeats for one attempt. They also go out by themselves, at a third of the step's `heartbeat_timeout`.
#[derive(Debug, Clone)]
pub struct HeartbeatHandle {
    lease_token: u64,
    details: Arc<Mutex<String>>,
    outbox: Beats,
}

impl HeartbeatHandle {
    pub(crate) fn new(lease_token: u64, outbox: Beats) -> Self {
        Self {
            lease_token,
            details: Arc::default(),
            outbox,
        }
    }

    /// A handle whose heartbeats go nowhere, for tests of handlers.
    #[must_use]
    pub fn detached() -> Self {
        Self::new(0, Beats::default())
    }

    /// Sends a heartbeat with these details, which later automatic ones repeat. Of several in a row the last is enough, and the others may stay behind.
    pub fn beat(&self, details: &str) {
        let cut: String = details.chars().take(MAX_DETAILS).collect();
        self.details
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&cut);
        self.outbox.put(self.lease_token, cut);
    }

    /// Sends the latest details again.
    pub(crate) fn repeat(&self) {
        let details = self
            .details
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        self.outbox.put(self.lease_token, details);
    }
}

/// The direction as it stands in keys.
pub(crate) const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Compensation => "compensation",
        Direction::Action | Direction::Unspecified => "action",
    }
}

/// The text of a value that is text.
fn as_text(value: &Value) -> Option<&str> {
    match &value.kind {
        Some(Kind::Text(text)) => Some(text),
        Some(Kind::Binary(_)) | None => None,
    }
}
