//! Every reachable state, and random schedules against a bank.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sagamesh_api::shop::payments::v1::PaymentState;
use sagamesh_api::shop::v1::Money;

use super::*;
use crate::processor::rules::{self, Method};

const AMOUNT: i64 = 1_250;

fn details() -> Details {
    Details {
        customer_id: "alice".into(),
        amount: Money {
            minor_units: AMOUNT,
            currency: "EUR".into(),
        },
        payment_method: "pm_ok".into(),
    }
}

fn approved() -> Answer {
    Answer::Approved {
        reference: "bank:1".into(),
    }
}

fn refused() -> Answer {
    Answer::Declined {
        reason: "NO".into(),
        message: "no".into(),
    }
}

/// The books of one payment.
type Books = BTreeMap<String, i64>;

fn post(books: &mut Books, events: &[Event]) {
    for event in events {
        let mut buffer = Vec::new();
        let type_name = event.encode(&mut buffer);
        assert_eq!(
            &Event::decode(type_name, &buffer).expect("what was written can be read"),
            event
        );
        for posting in event.entry().into_iter().flat_map(|entry| &entry.postings) {
            let amount = posting.amount.as_ref().expect("an amount");
            *books.entry(posting.account.clone()).or_default() += amount.minor_units;
        }
    }
    books.retain(|_, balance| *balance != 0);
}

/// What the books must say when the money is there.
fn books_of(hold: Hold) -> Books {
    let accounts: &[(&str, i64)] = match hold {
        Hold::Nothing | Hold::LetGo | Hold::GivenBack => &[],
        Hold::Held => &[("customer:alice", -AMOUNT), ("authorized:EUR", AMOUNT)],
        Hold::Taken => &[("customer:alice", -AMOUNT), ("merchant:EUR", AMOUNT)],
    };
    accounts
        .iter()
        .map(|(name, balance)| ((*name).to_owned(), *balance))
        .collect()
}

fn commands() -> Vec<Command> {
    let mut commands = vec![
        Command::Authorize(details()),
        Command::Capture,
        Command::Refund,
        Command::Undo { asked: None },
    ];
    for operation in Operation::ALL {
        for answer in [None, Some(approved()), Some(refused())] {
            commands.push(Command::Undo {
                asked: Some(Asked {
                    operation,
                    answer: answer.clone(),
                }),
            });
            if let Some(answer) = answer {
                commands.push(Command::Finish { operation, answer });
            }
        }
    }
    commands
}

/// Every state that any sequence of commands reaches, with its books.
fn reachable() -> Vec<(Payment, Books)> {
    let mut found = vec![(Payment::default(), Books::new())];
    let mut next = 0;
    while next < found.len() {
        let (payment, books) = found[next].clone();
        next += 1;
        for command in commands() {
            let (mut after, mut books) = (payment.clone(), books.clone());
            let events = decide(&payment, &command).events;
            events.iter().for_each(|event| after.evolve(event));
            post(&mut books, &events);
            if !found.iter().any(|(known, _)| *known == after) {
                found.push((after, books));
            }
        }
    }
    found
}

#[test]
fn in_every_reachable_state_the_books_say_where_the_money_is() {
    let states = reachable();
    assert!(states.len() > 15, "only {} states", states.len());
    for (payment, books) in &states {
        assert_eq!(*books, books_of(payment.hold), "{payment:?}");
        assert_eq!(books.values().sum::<i64>(), 0, "{payment:?}");
        assert_eq!(payment.details.is_some(), *payment != Payment::default());
        for command in commands() {
            let decision = decide(payment, &command);
            let mut after = payment.clone();
            let mut booked = books.clone();
            decision.events.iter().for_each(|event| after.evolve(event));
            post(&mut booked, &decision.events);
            assert_eq!(booked, books_of(after.hold), "{command:?} of {payment:?}");
            match &decision.next {
                Next::Call(operation) => {
                    assert_eq!(
                        after.open,
                        Some(*operation),
                        "a call without its intent: {command:?} of {payment:?}"
                    );
                }
                Next::Ask(_) => assert!(decision.events.is_empty()),
                Next::Done(Ending::Succeeded) => check_success(&command, &after),
                Next::Done(Ending::Rejected(rejection)) => assert!(!rejection.reason.is_empty()),
            }
            if let Some(shown) = decision.events.last().and_then(Event::shows) {
                assert!(
                    may_show(after.hold).contains(&shown),
                    "{shown:?} is shown of {after:?}"
                );
            }
            if payment.ended() {
                assert!(
                    decision.events.is_empty(),
                    "{command:?} changes the ended {payment:?}"
                );
            }
        }
    }
}

/// What people may be shown when the money is there.
fn may_show(hold: Hold) -> &'static [PaymentState] {
    match hold {
        Hold::Nothing => &[PaymentState::Authorizing, PaymentState::Declined],
        Hold::Held => &[
            PaymentState::Authorized,
            PaymentState::Capturing,
            PaymentState::Declined,
        ],
        Hold::Taken => &[PaymentState::Captured],
        Hold::LetGo => &[PaymentState::Voided],
        Hold::GivenBack => &[PaymentState::Refunded],
    }
}

fn check_success(command: &Command, after: &Payment) {
    let expected: &[Hold] = match command {
        Command::Authorize(_)
        | Command::Finish {
            operation: Operation::Authorize,
            ..
        } => &[Hold::Held, Hold::Taken],
        Command::Capture
        | Command::Finish {
            operation: Operation::Capture,
            ..
        } => &[Hold::Taken],
        Command::Refund
        | Command::Finish {
            operation: Operation::Refund,
            ..
        } => &[Hold::GivenBack],
        Command::Undo { .. }
        | Command::Finish {
            operation: Operation::Void,
            ..
        } => &[Hold::Nothing, Hold::LetGo, Hold::GivenBack],
    };
    assert!(
        expected.contains(&after.hold),
        "{command:?} succeeded and left {after:?}"
    );
}

#[test]
fn a_step_that_succeeded_succeeds_again_without_events() {
    for (payment, _) in reachable() {
        for command in commands() {
            let decision = decide(&payment, &command);
            if decision.next == Next::Done(Ending::Succeeded) {
                let mut after = payment.clone();
                decision.events.iter().for_each(|event| after.evolve(event));
                let again = decide(&after, &command);
                assert_eq!(
                    again.next,
                    Next::Done(Ending::Succeeded),
                    "{command:?} of {after:?}"
                );
                assert!(again.events.is_empty(), "{command:?} of {after:?}");
            }
        }
    }
}

#[test]
fn another_payment_under_the_same_id_is_refused() {
    let mut payment = Payment::default();
    decide(&payment, &Command::Authorize(details()))
        .events
        .iter()
        .for_each(|event| payment.evolve(event));
    let mut other = details();
    other.amount.minor_units += 1;
    let decision = decide(&payment, &Command::Authorize(other));
    assert!(decision.events.is_empty());
    let Next::Done(Ending::Rejected(rejection)) = decision.next else {
        panic!("accepted")
    };
    assert_eq!(rejection.reason, "PAYMENT_EXISTS");
}

#[test]
fn an_entry_that_does_not_balance_is_not_read_back() {
    let mut entry = journal::transfer(
        "a".into(),
        "b".into(),
        &Money {
            minor_units: 5,
            currency: "EUR".into(),
        },
    );
    assert_eq!(journal::check(&entry), Ok(()));
    entry.postings[0].amount.as_mut().unwrap().currency = "USD".into();
    assert!(matches!(
        journal::check(&entry),
        Err(journal::Unbalanced::Sum { .. })
    ));
    entry.postings[0].amount = None;
    assert_eq!(
        journal::check(&entry),
        Err(journal::Unbalanced::NoAmount("b".into()))
    );
    let event = Event::Captured(sagamesh_api::shop::payments::v1::PaymentCaptured {
        processor_reference: String::new(),
        entry: Some(entry),
    });
    let mut buffer = Vec::new();
    let type_name = event.encode(&mut buffer);
    assert!(matches!(
        Event::decode(type_name, &buffer),
        Err(DecodeError::Unbalanced { .. })
    ));
}

#[test]
fn unknown_and_malformed_events_are_refused() {
    assert!(matches!(
        Event::decode("shop.payments.v1.Stolen", &[]),
        Err(DecodeError::UnknownType(_))
    ));
    let malformed = Event::decode("shop.payments.v1.PaymentVoided", &[0xff]);
    assert!(matches!(malformed, Err(DecodeError::Malformed { .. })));
}

/// A bank without a disk.
#[derive(Default)]
struct Bank(BTreeMap<Operation, Answer>);

impl Bank {
    fn perform(&mut self, operation: Operation, method: Option<Method>) -> Answer {
        let approved: Vec<Operation> = self
            .0
            .iter()
            .filter(|(_, answer)| matches!(answer, Answer::Approved { .. }))
            .map(|(operation, _)| *operation)
            .collect();
        let first = || rules::answer(operation, method, &approved, operation.name());
        self.0.entry(operation).or_insert_with(first).clone()
    }

    fn did(&self, operation: Operation) -> bool {
        matches!(self.0.get(&operation), Some(Answer::Approved { .. }))
    }
}

/// A handler somewhere between two commits.
#[derive(Clone, Debug)]
enum Worker {
    Wants(Command),
    Calls(Operation),
    Asks(Operation),
    Finishes(Operation, Answer),
    Ended(Ending),
}

/// Lets a worker do its next thing.
fn advance(
    worker: &Worker,
    payment: &mut Payment,
    bank: &mut Bank,
    books: &mut Books,
    method: Option<Method>,
) -> Worker {
    let command = match worker {
        Worker::Wants(command) => command.clone(),
        Worker::Calls(operation) => {
            return Worker::Finishes(*operation, bank.perform(*operation, method));
        }
        Worker::Asks(operation) => {
            let asked = Asked {
                operation: *operation,
                answer: bank.0.get(operation).cloned(),
            };
            return Worker::Wants(Command::Undo { asked: Some(asked) });
        }
        Worker::Finishes(operation, answer) => Command::Finish {
            operation: *operation,
            answer: answer.clone(),
        },
        Worker::Ended(ending) => return Worker::Ended(ending.clone()),
    };
    let decision = decide(payment, &command);
    decision
        .events
        .iter()
        .for_each(|event| payment.evolve(event));
    post(books, &decision.events);
    match decision.next {
        Next::Call(operation) => Worker::Calls(operation),
        Next::Ask(operation) => Worker::Asks(operation),
        Next::Done(ending) => Worker::Ended(ending),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Handlers of all steps run at the same time, stop anywhere and start again. At every instant the books balance
    /// and say where the money is; and an undo that ends well has left no money anywhere, at the bank neither.
    #[test]
    fn books_and_bank_agree_after_any_schedule(
        schedule in prop::collection::vec((0..5usize, 0..5u8), 1..80),
        bad_card in any::<bool>(),
    ) {
        let method = Some(if bad_card { Method::Declined } else { Method::Fine });
        let (mut payment, mut bank, mut books) = (Payment::default(), Bank::default(), Books::new());
        let wants = [
            Command::Authorize(details()), Command::Authorize(details()), Command::Capture, Command::Capture,
            Command::Undo { asked: None },
        ];
        let mut workers: Vec<Worker> = wants.iter().cloned().map(Worker::Wants).collect();
        for (index, dice) in schedule {
            workers[index] = if dice == 0 {
                Worker::Wants(wants[index].clone())
            } else {
                advance(&workers[index], &mut payment, &mut bank, &mut books, method)
            };
            prop_assert_eq!(&books, &books_of(payment.hold));
        }
        // Quiet now: one undo alone, until it ends.
        let mut undo = Worker::Wants(Command::Undo { asked: None });
        for _ in 0..20 {
            undo = advance(&undo, &mut payment, &mut bank, &mut books, method);
        }
        prop_assert!(matches!(undo, Worker::Ended(Ending::Succeeded)), "{:?} at {:?}", undo, payment);
        prop_assert!(books.is_empty());
        prop_assert!(matches!(payment.hold, Hold::Nothing | Hold::LetGo | Hold::GivenBack));
        // And whatever was still on its way to the bank arrives after all.
        // (What has not begun never will: the barrier refuses an action after its compensation.)
        for worker in workers.iter_mut().filter(|worker| !matches!(worker, Worker::Wants(_))) {
            for _ in 0..3 {
                *worker = advance(worker, &mut payment, &mut bank, &mut books, method);
            }
        }
        prop_assert!(books.is_empty(), "{:?}", books);
        let kept = bank.did(Operation::Capture) && !bank.did(Operation::Refund);
        let held = bank.did(Operation::Authorize) && !bank.did(Operation::Capture) && !bank.did(Operation::Void);
        prop_assert!(!kept && !held, "the bank still has money: {:?}", bank.0);
    }

    /// Authorize, capture, and perhaps refund, each repeated from anywhere: the money moves once.
    #[test]
    fn the_happy_path_moves_the_money_once(schedule in prop::collection::vec(0..4u8, 0..40)) {
        let method = Some(Method::Fine);
        let (mut payment, mut bank, mut books) = (Payment::default(), Bank::default(), Books::new());
        let mut dice = schedule.into_iter();
        for command in [Command::Authorize(details()), Command::Capture, Command::Refund] {
            let mut worker = Worker::Wants(command.clone());
            while !matches!(worker, Worker::Ended(_)) {
                worker = if dice.next() == Some(0) {
                    Worker::Wants(command.clone())
                } else {
                    advance(&worker, &mut payment, &mut bank, &mut books, method)
                };
            }
            prop_assert!(matches!(worker, Worker::Ended(Ending::Succeeded)));
        }
        prop_assert_eq!(payment.hold, Hold::GivenBack);
        prop_assert!(books.is_empty());
    }
}
