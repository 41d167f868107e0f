use ledger::Given;
use sagamesh_api::shop::v1::Money;

use super::*;
use crate::domain::{Answer, Asked, Hold};

const NOW: i64 = 1_000;

/// A part of the step `authorize` of this saga, on payment `p`.
fn part(saga_id: &str, direction: Direction, command: domain::Command) -> Command {
    Command {
        key: Key {
            saga_id: saga_id.to_owned(),
            step: "authorize-payment".to_owned(),
            direction,
            not_after: Some(NOW + 1),
        },
        payment_id: "p".to_owned(),
        command,
    }
}

fn action(command: domain::Command) -> Command {
    part("saga", Direction::Action, command)
}

fn undo(command: domain::Command) -> Command {
    part("saga", Direction::Compensation, command)
}

fn authorize(amount: i64) -> domain::Command {
    domain::Command::Authorize(Details {
        customer_id: "alice".to_owned(),
        amount: Money {
            minor_units: amount,
            currency: "EUR".to_owned(),
        },
        payment_method: "pm_ok".to_owned(),
    })
}

fn yes() -> Answer {
    Answer::Approved {
        reference: "bank:1".to_owned(),
    }
}

fn asked() -> domain::Command {
    domain::Command::Undo {
        asked: Some(Asked {
            operation: Operation::Authorize,
            answer: Some(yes()),
        }),
    }
}

fn finish(operation: Operation) -> domain::Command {
    domain::Command::Finish {
        operation,
        answer: yes(),
    }
}

fn when(given: &mut Given<Payments>, command: &Command) -> Reply {
    given.when(command, NOW).expect("decided").reply
}

fn hold(given: &Given<Payments>) -> Hold {
    given.state(&stream("p")).expect("a payment").hold
}

/// An attempt whose answer never came; the compensation has asked the bank and begun to void; then a late attempt of the action, at another
/// replica, is rejected for that.
fn rejected_while_it_was_undone() -> Given<Payments> {
    let mut given = Given::new(Payments);
    let first = when(&mut given, &action(authorize(5)));
    assert!(matches!(first, Reply::Call(Operation::Authorize, _)));
    let begun = when(&mut given, &undo(asked()));
    assert!(matches!(begun, Reply::Call(Operation::Void, _)));
    assert_eq!(hold(&given), Hold::Held);
    let late = when(&mut given, &action(authorize(5)));
    assert!(
        matches!(late, Reply::Done(Outcome::Rejected(_))),
        "{late:?}"
    );
    given
}

#[test]
fn an_undo_that_has_begun_is_finished_whatever_came_in_between() {
    let mut given = rejected_while_it_was_undone();
    let done = when(&mut given, &undo(finish(Operation::Void)));
    assert_eq!(done, Reply::Done(Outcome::done()));
    assert_eq!(hold(&given), Hold::LetGo);
    // Once more: as it was recorded.
    let again = domain::Command::Undo { asked: None };
    assert_eq!(when(&mut given, &undo(again)), Reply::Done(Outcome::done()));
}

#[test]
fn an_undo_that_has_begun_is_gone_on_with_by_the_next_attempt() {
    let mut given = rejected_while_it_was_undone();
    // The process died before the bank heard of it.
    let next = when(&mut given, &undo(domain::Command::Undo { asked: None }));
    assert!(matches!(next, Reply::Call(Operation::Void, _)), "{next:?}");
    when(&mut given, &undo(finish(Operation::Void)));
    assert_eq!(hold(&given), Hold::LetGo);
}

#[test]
fn a_rejected_action_undoes_nothing_of_another_sagas_payment() {
    let mut given = Given::new(Payments);
    when(&mut given, &action(authorize(5)));
    when(&mut given, &action(finish(Operation::Authorize)));
    let taken = part("other", Direction::Action, authorize(7));
    assert!(matches!(
        when(&mut given, &taken),
        Reply::Done(Outcome::Rejected(_))
    ));
    let undo = domain::Command::Undo { asked: None };
    let undone = when(&mut given, &part("other", Direction::Compensation, undo));
    assert_eq!(undone, Reply::Done(Outcome::done()));
    assert_eq!(hold(&given), Hold::Held);
}
