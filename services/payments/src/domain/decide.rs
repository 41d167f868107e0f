//! Which changes are legal.

use sagamesh_api::shop::payments::v1 as api;

use super::{Decline, Details, Event, Hold, Operation, Payment, journal};

/// What the processor said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Approved {
        /// Its own reference.
        reference: String,
    },
    /// No, for good.
    Declined {
        /// Machine-readable.
        reason: String,
        /// For people.
        message: String,
    },
}

/// What became of an operation, when the processor was asked for it by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which operation.
    pub operation: Operation,
    /// Its answer; none if the processor never saw it.
    pub answer: Option<Answer>,
}

/// What is asked of a payment.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Hold the money: record the intent.
    Authorize(Details),
    /// Take the held money: record the intent.
    Capture,
    /// Give taken money back: record the intent.
    Refund,
    /// Undo whatever there is: settle an open intent, then record the intent to void or to refund.
    Undo {
        /// What the processor said about the open intent, once it was asked.
        asked: Option<Asked>,
    },
    /// Record what the processor answered to an operation.
    Finish {
        /// Which operation.
        operation: Operation,
        /// Its answer.
        answer: Answer,
    },
}

/// What to do once the events are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Call the processor with this operation: its intent is on record.
    Call(Operation),
    /// Ask the processor what became of this operation, and come back with the answer.
    Ask(Operation),
    /// Nothing: this is the outcome of the step.
    Done(Ending),
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is done.
    Succeeded,
    /// It did nothing and never will.
    Rejected(Rejection),
}

/// A business "no".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Machine-readable.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Events, and what to do next.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What happened.
    pub events: Vec<Event>,
    /// What to do once that is durable.
    pub next: Next,
}

/// Decides a command on the state of its payment.
pub fn decide(payment: &Payment, command: &Command) -> Decision {
    match command {
        Command::Authorize(details) => authorize(payment, details),
        Command::Capture => capture(payment),
        Command::Refund => refund(payment),
        Command::Undo { asked } => undo(payment, asked.as_ref()),
        Command::Finish { operation, answer } => finish(payment, *operation, answer),
    }
}

fn authorize(payment: &Payment, wanted: &Details) -> Decision {
    let Some(details) = &payment.details else {
        return call(Operation::Authorize, wanted);
    };
    if details != wanted {
        return rejected(
            "PAYMENT_EXISTS",
            "a payment of this id exists with another customer, amount or method",
        );
    }
    match (payment.hold, payment.open) {
        (Hold::Nothing, Some(Operation::Authorize)) => again(Operation::Authorize),
        (Hold::Nothing | Hold::Held, Some(Operation::Void)) => voided(),
        (Hold::Nothing, _) => declined_before(payment),
        (Hold::Held | Hold::Taken, _) => done(),
        (Hold::LetGo | Hold::GivenBack, _) => voided(),
    }
}

fn capture(payment: &Payment) -> Decision {
    let Some(details) = &payment.details else {
        return unknown();
    };
    match (payment.hold, payment.open) {
        (_, Some(Operation::Void)) | (Hold::LetGo, _) => voided(),
        (Hold::Nothing, Some(_)) => rejected("PAYMENT_NOT_AUTHORIZED", "the money is not held yet"),
        (Hold::Nothing, None) => declined_before(payment),
        (Hold::Held, Some(Operation::Capture)) => again(Operation::Capture),
        (Hold::Held, _) if payment.declined.is_some() => declined_before(payment),
        (Hold::Held, _) => call(Operation::Capture, details),
        (Hold::Taken, _) => done(),
        (Hold::GivenBack, _) => rejected("PAYMENT_REFUNDED", "the money was taken and went back"),
    }
}

fn refund(payment: &Payment) -> Decision {
    let Some(details) = &payment.details else {
        return unknown();
    };
    match (payment.hold, payment.open) {
        (Hold::Taken, Some(Operation::Refund)) => again(Operation::Refund),
        (Hold::Taken, _)
            if payment
                .declined
                .as_ref()
                .is_some_and(|no| no.operation == Operation::Refund) =>
        {
            declined_before(payment)
        }
        (Hold::Taken, _) => call(Operation::Refund, details),
        (Hold::GivenBack, _) => done(),
        (Hold::Nothing | Hold::Held | Hold::LetGo, _) => rejected(
            "PAYMENT_NOT_CAPTURED",
            "no money was taken: there is nothing to give back",
        ),
    }
}

/// Undoing works from whatever is there: first the open intent is settled, then what it did is undone.
fn undo(payment: &Payment, asked: Option<&Asked>) -> Decision {
    let Some(details) = &payment.details else {
        return done();
    };
    let found = |operation| {
        asked
            .filter(|asked| asked.operation == operation)
            .map(|asked| asked.answer.as_ref())
    };
    match (payment.hold, payment.open) {
        (Hold::LetGo | Hold::GivenBack, _) => done(),
        (Hold::Nothing, Some(Operation::Authorize)) => match found(Operation::Authorize) {
            None => ask(Operation::Authorize),
            Some(Some(Answer::Approved { reference })) => and_then(
                authorized(details, reference),
                call(Operation::Void, details),
            ),
            Some(Some(Answer::Declined { reason, message })) => {
                and_then(declined(Operation::Authorize, reason, message), done())
            }
            // Never seen by the processor, but it may still be on its way: a void stops it there too.
            Some(None) => call(Operation::Void, details),
        },
        (Hold::Held, Some(Operation::Capture)) => match found(Operation::Capture) {
            None => ask(Operation::Capture),
            Some(Some(Answer::Approved { reference })) => and_then(
                captured(details, reference),
                call(Operation::Refund, details),
            ),
            Some(Some(Answer::Declined { reason, message })) => and_then(
                declined(Operation::Capture, reason, message),
                call(Operation::Void, details),
            ),
            Some(None) => call(Operation::Void, details),
        },
        // The void was refused because a capture got there first.
        (Hold::Held, Some(Operation::Void)) => match found(Operation::Capture) {
            Some(Some(Answer::Approved { reference })) => and_then(
                captured(details, reference),
                call(Operation::Refund, details),
            ),
            _ => again(Operation::Void),
        },
        (Hold::Nothing, Some(_)) => again(Operation::Void),
        (Hold::Nothing, None) => done(),
        (Hold::Held, _) => call(Operation::Void, details),
        (Hold::Taken, Some(Operation::Refund)) => again(Operation::Refund),
        (Hold::Taken, _) => call(Operation::Refund, details),
    }
}

fn finish(payment: &Payment, operation: Operation, answer: &Answer) -> Decision {
    let Some(details) = &payment.details else {
        return unknown();
    };
    match answer {
        Answer::Approved { reference } => approved(payment, details, operation, reference),
        Answer::Declined { reason, message } => {
            let refused = rejected(reason, message);
            match operation {
                Operation::Void if payment.ended() => done(),
                Operation::Void if payment.hold == Hold::Taken => call(Operation::Refund, details),
                // A void is refused when a capture got there first: find out.
                Operation::Void => ask(Operation::Capture),
                _ if payment.open == Some(operation) => {
                    and_then(declined(operation, reason, message), refused)
                }
                _ => refused,
            }
        }
    }
}

fn approved(
    payment: &Payment,
    details: &Details,
    operation: Operation,
    reference: &str,
) -> Decision {
    use Operation::{Authorize, Capture, Refund, Void};
    match (operation, payment.hold) {
        (Authorize, Hold::Nothing) if payment.open.is_some() => {
            and_then(authorized(details, reference), done())
        }
        (Authorize, Hold::Nothing) => declined_before(payment),
        (Authorize, Hold::Held | Hold::Taken) => done(),
        (Authorize, Hold::LetGo | Hold::GivenBack) => voided(),

        (Capture, Hold::Held) => and_then(captured(details, reference), done()),
        (Capture, Hold::Taken) => done(),
        (Capture, Hold::Nothing) => rejected("PAYMENT_NOT_AUTHORIZED", "the money is not held"),
        (Capture, Hold::LetGo) => voided(),
        (Capture, Hold::GivenBack) => {
            rejected("PAYMENT_REFUNDED", "the money was taken and went back")
        }

        (Void, Hold::Nothing | Hold::Held) if payment.open != Some(Void) => {
            rejected("PAYMENT_NOT_VOIDING", "nobody is giving this payment up")
        }
        (Void, Hold::Nothing) => {
            let nothing = api::PaymentVoided {
                entry: Some(api::JournalEntry::default()),
            };
            and_then(Event::Voided(nothing), done())
        }
        (Void, Hold::Held) => and_then(released(details), done()),
        (Void, Hold::Taken) => call(Refund, details),
        (Void, Hold::LetGo | Hold::GivenBack) => done(),

        (Refund, Hold::Taken) => and_then(refunded(details, reference), done()),
        (Refund, Hold::GivenBack) => done(),
        (Refund, Hold::Nothing | Hold::Held | Hold::LetGo) => {
            rejected("PAYMENT_NOT_CAPTURED", "no money was taken")
        }
    }
}

fn decision(events: Vec<Event>, next: Next) -> Decision {
    Decision { events, next }
}

fn done() -> Decision {
    decision(Vec::new(), Next::Done(Ending::Succeeded))
}

fn again(operation: Operation) -> Decision {
    decision(Vec::new(), Next::Call(operation))
}

fn ask(operation: Operation) -> Decision {
    decision(Vec::new(), Next::Ask(operation))
}

fn call(operation: Operation, details: &Details) -> Decision {
    let intent = api::IntentRecorded {
        operation: operation.name().to_owned(),
        customer_id: details.customer_id.clone(),
        amount: Some(details.amount.clone()),
        payment_method: details.payment_method.clone(),
    };
    decision(vec![Event::Intent(intent)], Next::Call(operation))
}

fn and_then(first: Event, mut rest: Decision) -> Decision {
    rest.events.insert(0, first);
    rest
}

fn rejected(reason: &str, message: &str) -> Decision {
    let rejection = Rejection {
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    decision(Vec::new(), Next::Done(Ending::Rejected(rejection)))
}

fn voided() -> Decision {
    rejected("PAYMENT_VOIDED", "the payment was given up")
}

fn unknown() -> Decision {
    rejected(
        "PAYMENT_UNKNOWN",
        "there is no payment of this id: authorize it first",
    )
}

fn declined_before(payment: &Payment) -> Decision {
    match &payment.declined {
        Some(Decline {
            reason, message, ..
        }) => rejected(reason, message),
        None => rejected("PAYMENT_NOT_AUTHORIZED", "the money is not held"),
    }
}

fn authorized(details: &Details, reference: &str) -> Event {
    let (customer, held) = (
        customer(details),
        journal::authorized(&details.amount.currency),
    );
    Event::Authorized(api::PaymentAuthorized {
        processor_reference: reference.to_owned(),
        entry: Some(journal::transfer(customer, held, &details.amount)),
    })
}

fn released(details: &Details) -> Event {
    let (customer, held) = (
        customer(details),
        journal::authorized(&details.amount.currency),
    );
    Event::Voided(api::PaymentVoided {
        entry: Some(journal::transfer(held, customer, &details.amount)),
    })
}

fn captured(details: &Details, reference: &str) -> Event {
    let currency = &details.amount.currency;
    let (held, ours) = (journal::authorized(currency), journal::merchant(currency));
    Event::Captured(api::PaymentCaptured {
        processor_reference: reference.to_owned(),
        entry: Some(journal::transfer(held, ours, &details.amount)),
    })
}

fn refunded(details: &Details, reference: &str) -> Event {
    let (customer, ours) = (
        customer(details),
        journal::merchant(&details.amount.currency),
    );
    Event::Refunded(api::PaymentRefunded {
        processor_reference: reference.to_owned(),
        entry: Some(journal::transfer(ours, customer, &details.amount)),
    })
}

fn customer(details: &Details) -> String {
    journal::customer(&details.customer_id)
}

fn declined(operation: Operation, reason: &str, message: &str) -> Event {
    Event::Declined(api::PaymentDeclined {
        operation: operation.name().to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    })
}
