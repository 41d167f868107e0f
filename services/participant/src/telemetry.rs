//! Metrics of a participant. Handles are resolved once, not per command.

use std::sync::Arc;
use std::time::Duration;

use chassis::trace::KeyValue;
use metrics::{Counter, Gauge, Histogram};
use sagamesh_api::saga::v1::Direction;
use tracing::Span;

use crate::{Outcome, StepCommand};

/// A command is a message from the coordinator's queue for this action, and its attempt is the processing of it.
pub(crate) fn describe(span: &Span, command: &StepCommand) {
    if !chassis::trace::exporting() {
        return;
    }
    span.record("otel.kind", "consumer");
    let operation = match command.direction {
        Direction::Compensation => "compensate",
        _ => "execute",
    };
    let attributes = || {
        [
            KeyValue::new("messaging.system", "sagamesh"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.destination.name", command.action.clone()),
            KeyValue::new(
                "messaging.message.id",
                format!("{:016x}", command.lease_token),
            ),
            KeyValue::new("messaging.message.conversation_id", command.saga_id.clone()),
        ]
    };
    chassis::trace::describe(
        span,
        || format!("{operation} {}", command.action),
        attributes,
    );
}

/// Of one action.
pub(crate) struct StepMetrics {
    success: Counter,
    rejected: Counter,
    transient: Counter,
    unknown: Counter,
    seconds: Histogram,
    pub(crate) running: Gauge,
}

impl StepMetrics {
    pub(crate) fn new(participant: &str, action: &str) -> Arc<Self> {
        let labels = [
            ("participant", participant.to_owned()),
            ("action", action.to_owned()),
        ];
        let ended = |outcome: &'static str| {
            metrics::counter!(
                "participant_commands_total",
                "participant" => participant.to_owned(), "action" => action.to_owned(), "outcome" => outcome
            )
        };
        Arc::new(Self {
            success: ended("success"),
            rejected: ended("rejected"),
            transient: ended("transient"),
            unknown: ended("unknown"),
            seconds: metrics::histogram!("participant_command_duration_seconds", &labels),
            running: metrics::gauge!("participant_commands_running", &labels),
        })
    }

    pub(crate) fn ended(&self, outcome: &Outcome, took: Duration) {
        match outcome {
            Outcome::Success(_) => self.success.increment(1),
            Outcome::Rejected(_) => self.rejected.increment(1),
            Outcome::Transient(_) => self.transient.increment(1),
            Outcome::Unknown(_) => self.unknown.increment(1),
        }
        self.seconds.record(took);
        self.running.decrement(1.0);
    }
}

/// Of one link.
pub(crate) struct LinkMetrics {
    pub(crate) connects: Counter,
    pub(crate) failures: Counter,
    pub(crate) superseded: Counter,
    pub(crate) invalid: Counter,
    pub(crate) resent: Counter,
    pub(crate) violations: Counter,
}

impl LinkMetrics {
    pub(crate) fn new(participant: &str) -> Self {
        let labels = [("participant", participant.to_owned())];
        Self {
            connects: metrics::counter!("participant_streams_opened_total", &labels),
            failures: metrics::counter!("participant_streams_failed_total", &labels),
            superseded: metrics::counter!("participant_results_superseded_total", &labels),
            invalid: metrics::counter!("participant_results_invalid_total", &labels),
            resent: metrics::counter!("participant_results_resent_total", &labels),
            violations: metrics::counter!("participant_commands_without_credit_total", &labels),
        }
    }
}
