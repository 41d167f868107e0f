//! Normalisation of definitions, and the hash that names them.

use prost_types::Duration;
use sagamesh_api::saga::v1::{Call, Definition, Phase, RetryPolicy, Step, step};
use sha2::{Digest as _, Sha256};

use super::time::{duration, duration_millis};

/// Unset: how long one attempt may take.
const TIMEOUT_MILLIS: i64 = 10_000;
/// Unset: when a step from the pivot on raises an alarm.
const STALLED_AFTER_MILLIS: i64 = 300_000;
/// Unset: how long an ended saga is kept.
const RETENTION_MILLIS: i64 = 7 * 24 * 3_600 * 1_000;
const ACTION_ATTEMPTS: u32 = 5;
const COMPENSATION_ATTEMPTS: u32 = 10;
const INITIAL_BACKOFF_MILLIS: i64 = 100;
const MAX_BACKOFF_MILLIS: i64 = 30_000;
const MULTIPLIER: f64 = 2.0;

/// The same definition with its defaults filled, lists that are sets in order, and times in whole milliseconds. Normalising twice
/// changes nothing.
pub fn normalise(definition: &Definition) -> Definition {
    let mut normal = definition.clone();
    whole(&mut normal.deadline);
    default(&mut normal.retention, RETENTION_MILLIS);
    for step in &mut normal.steps {
        normalise_step(step);
    }
    normal
}

fn normalise_step(step: &mut Step) {
    step.after.sort();
    let phase = step.phase();
    match &mut step.kind {
        Some(step::Kind::Call(call)) => normalise_call(call, phase),
        Some(step::Kind::Delay(delay)) => whole(&mut delay.duration),
        Some(step::Kind::Signal(signal)) => whole(&mut signal.timeout),
        None => {}
    }
}

fn normalise_call(call: &mut Call, phase: Phase) {
    default(&mut call.timeout, TIMEOUT_MILLIS);
    whole(&mut call.heartbeat_timeout);
    call.input_fields.sort();
    call.outputs_of.sort();
    normalise_retry(&mut call.retry, ACTION_ATTEMPTS);
    if phase == Phase::Compensatable {
        normalise_retry(&mut call.compensation_retry, COMPENSATION_ATTEMPTS);
    }
    if matches!(phase, Phase::Pivot | Phase::Retriable) {
        default(&mut call.stalled_after, STALLED_AFTER_MILLIS);
    }
}

fn normalise_retry(retry: &mut Option<RetryPolicy>, attempts: u32) {
    let policy = retry.get_or_insert_default();
    if policy.max_attempts == 0 {
        policy.max_attempts = attempts;
    }
    if policy.multiplier == 0.0 {
        policy.multiplier = MULTIPLIER;
    }
    default(&mut policy.initial_backoff, INITIAL_BACKOFF_MILLIS);
    // A default must not fall below what was asked for.
    let initial = policy.initial_backoff.as_ref().map_or(0, duration_millis);
    default(&mut policy.max_backoff, MAX_BACKOFF_MILLIS.max(initial));
}

fn default(time: &mut Option<Duration>, millis: i64) {
    match time {
        None => *time = Some(duration(millis)),
        Some(_) => whole(time),
    }
}

fn whole(time: &mut Option<Duration>) {
    if let Some(time) = time {
        *time = duration(duration_millis(time));
    }
}

/// SHA-256 over our own encoding of the normalised content, in hexadecimal. Every value is written with its length or at a
/// fixed width, so that no two contents are written alike; protobuf's encoding is not used because it promises no such thing.
pub fn hash(definition: &Definition) -> String {
    let definition = normalise(definition);
    let mut content = Content(Sha256::new());
    content.text("sagamesh definition 1");
    content.text(&definition.name);
    content.text(&definition.description);
    content.time(definition.deadline.as_ref());
    content.time(definition.retention.as_ref());
    content.number(definition.steps.len() as u64);
    for step in &definition.steps {
        content.step(step);
    }
    content
        .0
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Content(Sha256);

impl Content {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn texts(&mut self, texts: &[String]) {
        self.number(texts.len() as u64);
        for text in texts {
            self.text(text);
        }
    }

    fn time(&mut self, time: Option<&Duration>) {
        match time {
            None => self.number(0),
            Some(time) => {
                self.number(1);
                self.0.update(duration_millis(time).to_be_bytes());
            }
        }
    }

    fn step(&mut self, step: &Step) {
        self.text(&step.name);
        self.0.update(step.phase.to_be_bytes());
        self.texts(&step.after);
        match &step.kind {
            None => self.number(0),
            Some(step::Kind::Call(call)) => {
                self.number(1);
                self.call(call);
            }
            Some(step::Kind::Delay(delay)) => {
                self.number(2);
                self.time(delay.duration.as_ref());
            }
            Some(step::Kind::Signal(signal)) => {
                self.number(3);
                self.text(&signal.name);
                self.time(signal.timeout.as_ref());
            }
        }
    }

    fn call(&mut self, call: &Call) {
        self.text(&call.participant);
        self.text(&call.action);
        self.text(&call.compensation);
        self.time(call.timeout.as_ref());
        self.retry(call.retry.as_ref());
        self.retry(call.compensation_retry.as_ref());
        self.texts(&call.input_fields);
        self.texts(&call.outputs_of);
        self.time(call.heartbeat_timeout.as_ref());
        self.time(call.stalled_after.as_ref());
    }

    fn retry(&mut self, retry: Option<&RetryPolicy>) {
        let Some(retry) = retry else {
            return self.number(0);
        };
        self.number(1);
        self.number(u64::from(retry.max_attempts));
        self.time(retry.initial_backoff.as_ref());
        self.time(retry.max_backoff.as_ref());
        self.number(retry.multiplier.to_bits());
    }
}
