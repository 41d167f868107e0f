//! The domain on the ledger: one stream for each payment, and the barrier in the commit of the outcome.
//!
//! A step takes several commits: the intent, then (after the processor's answer) the outcome. The barrier's row is written with
//! the last one; an intent alone is no outcome, so a step that stopped between them goes on where it was.

use ledger::{Decider, Decision, StreamId, View};
use participant::Outcome;
use participant::barrier::Key;
use participant::ledger_barrier::{self, Entry};
use sagamesh_api::saga::v1::Direction;

use crate::domain::{self, Details, Ending, Event, Next, Operation, Payment};

/// The decider of payments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payments;

/// A part of a saga's step.
#[derive(Clone, Debug)]
pub struct Command {
    /// The barrier's key.
    pub key: Key,
    /// Which payment.
    pub payment_id: String,
    /// What the step does to it.
    pub command: domain::Command,
}

/// What the step does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Call the processor: the intent is durable.
    Call(domain::Operation, Details),
    /// Ask the processor what became of an operation.
    Ask(domain::Operation),
    /// Answer with this outcome, which is durable if it is final.
    Done(Outcome),
}

/// A stored row cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(String);

impl Decider for Payments {
    type State = Payment;
    type Event = Event;
    type Command = Command;
    type Reply = Reply;
    type Rejection = Damaged;

    fn streams(&self, command: &Command) -> Vec<StreamId> {
        vec![stream(&command.payment_id)]
    }

    fn expects_new(&self, command: &Command) -> bool {
        matches!(command.command, domain::Command::Authorize(_))
    }

    fn initial(&self, _stream: &StreamId) -> Payment {
        Payment::default()
    }

    fn evolve(&self, payment: &mut Payment, event: &Event) {
        payment.evolve(event);
    }

    fn inbox_keys(&self, command: &Command) -> Vec<String> {
        ledger_barrier::keys(&command.key)
    }

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Command,
        now_millis: i64,
    ) -> Result<Decision<Event, Reply>, Damaged> {
        let stream = stream(&command.payment_id);
        let payment = view.state(&stream);
        let entry = ledger_barrier::check(view, &command.key, now_millis)
            .map_err(|error| Damaged(format!("a barrier row cannot be read: {error}")))?;
        let no_op = match entry {
            Entry::Proceed => None,
            Entry::Answer(_, rows) if unsettled(&command.key, payment, rows.len()) => Some(rows),
            Entry::Answer(outcome, rows) => {
                let mut decision = Decision::new(Reply::Done(outcome));
                decision.inbox = rows;
                return Ok(decision);
            }
        };
        let decided = domain::decide(payment, &command.command);
        Ok(match decided.next {
            Next::Ask(operation) => {
                Decision::new(Reply::Ask(operation)).events(&stream, decided.events)
            }
            Next::Call(operation) => {
                let details = details_after(payment, &decided.events).ok_or_else(|| {
                    Damaged(format!("payment `{}` has no details", command.payment_id))
                })?;
                Decision::new(Reply::Call(operation, details)).events(&stream, decided.events)
            }
            Next::Done(ending) => {
                let outcome = outcome(ending);
                let recorded = ledger_barrier::record(&command.key, &outcome);
                let rows = match (no_op, &outcome) {
                    (Some(rows), Outcome::Success(_)) => rows,
                    _ => recorded,
                };
                let mut decision =
                    Decision::new(Reply::Done(outcome)).events(&stream, decided.events);
                decision.inbox = rows;
                decision
            }
        })
    }

    fn encode(&self, event: &Event, buffer: &mut Vec<u8>) -> &'static str {
        event.encode(buffer)
    }

    fn decode(&self, type_name: &str, data: &[u8]) -> Result<Event, ledger::Error> {
        Event::decode(type_name, data).map_err(|error| ledger::Error::decode(type_name, error))
    }

    fn forget(&self, payment: &Payment) -> bool {
        payment.ended()
    }
}

/// Whether a compensation that the barrier would record as a no-op has something to undo all the same.
///
/// - The barrier would write two rows, the compensation's and one that keeps the action out: nothing final is on record of the action, but the
///   payment is, its intent at least, or more if the barrier's row was too old to be kept.
/// - It would write one, since the action was rejected, but an undo has begun: it was begun before another attempt of the action came and was
///   rejected for it. It is finished. Without one, the action was rejected for what is not this saga's to undo: another payment of this id.
fn unsettled(key: &Key, payment: &Payment, rows: usize) -> bool {
    let undoing = matches!(payment.open, Some(Operation::Void | Operation::Refund));
    key.direction == Direction::Compensation
        && payment.details.is_some()
        && (rows == 2 || rows == 1 && undoing)
}

fn details_after(payment: &Payment, events: &[Event]) -> Option<Details> {
    let mut after = payment.clone();
    events.iter().for_each(|event| after.evolve(event));
    after.details
}

fn outcome(ending: Ending) -> Outcome {
    match ending {
        Ending::Succeeded => Outcome::done(),
        Ending::Rejected(rejection) => Outcome::rejected(rejection.reason, rejection.message),
    }
}

/// The stream of a payment.
pub(crate) fn stream(payment_id: &str) -> StreamId {
    StreamId::of("payment", payment_id)
}

#[cfg(test)]
mod tests;
