//! One attempt: the handler with its timeout, its heartbeats, its span and its metrics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sagamesh_api::saga::v1::{Command, Direction};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::Instrument as _;

use super::Beats;
use crate::step::DynStep;
use crate::telemetry::StepMetrics;
use crate::{HeartbeatHandle, Outcome, StepCommand};

/// How long a handler may take when the command does not say so, which a coordinator never sends.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// An attempt that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) lease_token: u64,
    pub(crate) saga_id: String,
    pub(crate) step: String,
    pub(crate) direction: Direction,
    pub(crate) outcome: Outcome,
}

/// An attempt that is about to run.
pub(crate) struct Attempt {
    command: StepCommand,
    heartbeat_timeout: Option<Duration>,
    handler: Arc<dyn DynStep>,
    metrics: Arc<StepMetrics>,
}

impl Attempt {
    pub(crate) fn new(
        command: Command,
        beats: &Beats,
        handler: Arc<dyn DynStep>,
        metrics: Arc<StepMetrics>,
    ) -> Self {
        let direction = command.direction();
        let positive = |duration: Option<prost_types::Duration>| {
            duration
                .and_then(|duration| Duration::try_from(duration).ok())
                .filter(|duration| !duration.is_zero())
        };
        let heartbeat_timeout = positive(command.heartbeat_timeout);
        let command = StepCommand {
            heartbeat: HeartbeatHandle::new(command.lease_token, beats.clone()),
            saga_id: command.saga_id,
            step: command.step,
            direction,
            action: command.action,
            attempt: command.attempt,
            lease_token: command.lease_token,
            timeout: positive(command.timeout).unwrap_or(DEFAULT_TIMEOUT),
            not_after: command
                .not_after_time
                .map(|time| chassis::timestamp::to_millis(&time)),
            input: command.input,
            outputs: command.outputs,
            action_output: command.action_output,
            traceparent: command.traceparent,
        };
        Self {
            command,
            heartbeat_timeout,
            handler,
            metrics,
        }
    }

    /// Runs the handler to its end, to its timeout or to its panic: there is always an outcome.
    pub(crate) async fn run(self) -> Ended {
        let Self {
            command,
            heartbeat_timeout,
            handler,
            metrics,
        } = self;
        let started = Instant::now();
        metrics.running.increment(1.0);
        let span = tracing::info_span!(
            "saga_step", "otel.kind" = tracing::field::Empty,
            saga.id = %command.saga_id, saga.step = %command.step, saga.action = %command.action,
            saga.attempt = command.attempt, saga.direction = crate::command::direction_name(command.direction),
            saga.outcome = tracing::field::Empty,
        );
        let traceparent = (!command.traceparent.is_empty()).then(|| command.traceparent.clone());
        if let Some(parent) = &traceparent {
            chassis::trace::set_parent(&span, parent);
        }
        crate::telemetry::describe(&span, &command);
        let (lease_token, saga_id, step) = (
            command.lease_token,
            command.saga_id.clone(),
            command.step.clone(),
        );
        let (direction, timeout, beat) = (
            command.direction,
            command.timeout,
            command.heartbeat.clone(),
        );

        let work = AssertUnwindSafe(handler.run_boxed(command)).catch_unwind();
        let work = tokio::time::timeout(timeout, with_heartbeats(work, beat, heartbeat_timeout));
        let work = chassis::trace::scope(traceparent.as_deref(), work).instrument(span.clone());
        let outcome = match work.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_panic)) => Outcome::unknown(
                "HANDLER_PANICKED",
                "the handler panicked; its log says where",
            ),
            Err(_elapsed) => Outcome::unknown(
                "HANDLER_TIMED_OUT",
                format!("the handler took longer than {timeout:?}"),
            ),
        };
        span.record("saga.outcome", outcome.label());
        match &outcome {
            // A business "no" is an answer; it is the saga that fails of it.
            Outcome::Success(_) | Outcome::Rejected(_) => {}
            Outcome::Transient(_) | Outcome::Unknown(_) => {
                chassis::trace::failed(&span, outcome.label());
            }
        }
        metrics.ended(&outcome, started.elapsed());
        Ended {
            lease_token,
            saga_id,
            step,
            direction,
            outcome,
        }
    }
}

/// Runs `work` and sends a heartbeat at every third of `timeout` meanwhile.
async fn with_heartbeats<F: Future>(
    work: F,
    beat: HeartbeatHandle,
    timeout: Option<Duration>,
) -> F::Output {
    let Some(timeout) = timeout else {
        return work.await;
    };
    let period = (timeout / 3).max(Duration::from_millis(1));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            output = &mut work => return output,
            _ = ticks.tick() => beat.repeat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts are moved when they start, tens of thousands of times a second.
    #[tokio::test]
    async fn an_attempt_stays_small() {
        let handler = Arc::new(|_: StepCommand| async { Outcome::done() });
        let attempt = Attempt::new(
            Command::default(),
            &Beats::default(),
            handler,
            StepMetrics::new("p", "a"),
        );
        let (unstarted, command) = (size_of_val(&attempt), size_of_val(&attempt.command));
        let future = attempt.run();
        let size = size_of_val(&future);
        assert!(
            size <= 1_536,
            "the future has {size} bytes, the attempt {unstarted}, the command {command}"
        );
        assert_eq!(future.await.outcome, Outcome::done());
    }
}
