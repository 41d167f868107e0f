//! The states of an order, what each act does in them, and what is owed.

use super::*;

/// A state in a word: status and flags.
fn name(state: &OrderState) -> String {
    let mut name = format!("{:?}", state.status());
    for (flag, word) in [
        (state.saga_started, "started"),
        (state.locked, "locked"),
        (state.cancelled, "cancelled"),
        (state.refund_started, "refunding"),
    ] {
        if flag {
            name.push('+');
            name.push_str(word);
        }
    }
    name
}

fn reachable() -> BTreeMap<String, OrderState> {
    let mut seen = BTreeMap::from([(name(&OrderState::default()), OrderState::default())]);
    let mut queue = VecDeque::from([OrderState::default()]);
    while let Some(state) = queue.pop_front() {
        for command in ACTS {
            let mut next = state.clone();
            for event in act(&state, command).1 {
                next.evolve(&event);
            }
            if seen.insert(name(&next), next.clone()).is_none() {
                queue.push_back(next);
            }
        }
    }
    seen
}

#[test]
fn every_reachable_state_is_known() {
    let names: BTreeSet<_> = reachable().into_keys().collect();
    let statuses: BTreeMap<String, usize> =
        names.iter().fold(BTreeMap::new(), |mut counts, name| {
            *counts
                .entry(name.split('+').next().unwrap_or_default().to_owned())
                .or_default() += 1;
            counts
        });
    assert_eq!(
        statuses,
        BTreeMap::from([
            ("Unspecified".to_owned(), 1),
            // started?, locked (implies started), each cancelled or not
            ("Pending".to_owned(), 6),
            ("Confirmed".to_owned(), 2),
            ("Rejected".to_owned(), 4),
            ("Refunding".to_owned(), 4),
            // from Confirmed (2), and from Refunding (4)
            ("Refunded".to_owned(), 6),
        ]),
        "{names:#?}"
    );
}

/// The whole table: for each status and act, the answer and the status after it.
#[test]
fn every_transition_is_as_the_table_says() {
    use OrderStatus::{Confirmed, Pending, Refunded, Refunding, Rejected, Unspecified};
    for (name, state) in reachable() {
        for command in ACTS {
            let (answer, events) = act(&state, command);
            let mut after = state.clone();
            events.iter().for_each(|event| after.evolve(event));
            let before = state.status();
            let expected = match (command, before) {
                (Act::Place, Unspecified) => ("", Pending),
                (Act::Place | Act::Started | Act::RefundStarted, _) => ("", before),
                (Act::Undone, Pending) => ("", Rejected),
                (Act::Undone, _) => ("", before),
                (Act::Reject, Unspecified) => ("done", before),
                (Act::Lock | Act::ForeignLock | Act::Confirm | Act::MarkRefunded, Unspecified) => {
                    ("ORDER_NOT_FOUND", before)
                }
                (Act::ForeignLock, _) => ("ORDER_LOCKED", before),
                (Act::Lock, Pending) if state.cancelled => ("ORDER_CANCELLED", Rejected),
                (Act::Lock, Pending) => ("done", Pending),
                (Act::Lock, _) => ("ORDER_NOT_PENDING", before),
                (Act::Reject, Pending | Rejected) => ("done", Rejected),
                (Act::Reject, _) => ("ORDER_CONFIRMED", before),
                (Act::Confirm, Pending) if state.cancelled => ("done", Refunding),
                (Act::Confirm, Pending) => ("done", Confirmed),
                (Act::Confirm, Rejected) => ("ORDER_REJECTED", before),
                (Act::Confirm, _) => ("done", before),
                (Act::MarkRefunded, Confirmed | Refunding | Refunded) => ("done", Refunded),
                (Act::MarkRefunded, _) => ("ORDER_NOT_CONFIRMED", before),
                (Act::Cancel | Act::ForeignCancel, Unspecified) | (Act::ForeignCancel, _) => {
                    ("not found", before)
                }
                (Act::Cancel, Pending) if state.cancelled => ("before", before),
                (Act::Cancel, Pending) => ("now", before),
                (Act::Cancel, Confirmed) => ("now", Refunding),
                (Act::Cancel, Rejected) if state.cancelled => ("before", before),
                (Act::Cancel, Rejected) => ("rejected", before),
                (Act::Cancel, Refunding | Refunded) => ("before", before),
            };
            assert_eq!((answer, after.status()), expected, "{command:?} in {name}");
        }
    }
}

/// Doing anything twice is the same as doing it once.
#[test]
fn every_act_is_safe_to_repeat() {
    for (name, state) in reachable() {
        for command in ACTS {
            let mut once = state.clone();
            act(&state, command)
                .1
                .iter()
                .for_each(|event| once.evolve(event));
            let (_, again) = act(&once, command);
            assert_eq!(again, Vec::new(), "{command:?} twice in {name}");
        }
    }
}

/// What is owed is emitted minus answered: by status and flags alone.
#[test]
fn outstanding_is_what_was_emitted_minus_what_was_answered() {
    for (name, state) in reachable() {
        let pending = state.status() == OrderStatus::Pending;
        let mut expected = Vec::new();
        if pending && !state.saga_started {
            expected.push(Effect::StartSaga(SAGA.to_owned()));
        }
        if pending && state.cancelled {
            expected.push(Effect::CancelSaga(SAGA.to_owned()));
        }
        if state.status() == OrderStatus::Refunding && !state.refund_started {
            expected.push(Effect::StartRefund(REFUND.to_owned()));
        }
        assert_eq!(outstanding(&state), expected, "{name}");
        // Answering it settles it.
        let mut answered = state.clone();
        for event in state
            .saga_started(SAGA, false)
            .into_iter()
            .chain(state.saga_started(REFUND, true))
        {
            answered.evolve(&event);
        }
        assert!(
            outstanding(&answered)
                .iter()
                .all(|effect| matches!(effect, Effect::CancelSaga(_))),
            "{name}"
        );
        assert_eq!(
            state.is_settled(),
            !pending
                && !matches!(
                    state.status(),
                    OrderStatus::Unspecified | OrderStatus::Refunding
                ),
            "{name}"
        );
    }
}

#[test]
fn an_order_shows_what_happened_to_it() {
    let mut state = OrderState::default();
    for event in state.place(&placed()) {
        state.evolve(&event);
    }
    let order = state.order.clone().expect("placed");
    assert_eq!(
        (
            order.order_id.as_str(),
            order.saga_id.as_str(),
            order.status()
        ),
        (SAGA, SAGA, OrderStatus::Pending)
    );
    assert_eq!(order.total, Some(eur(1_000)));

    let mut rejected = state.clone();
    act(&rejected.clone(), Act::Reject)
        .1
        .iter()
        .for_each(|event| rejected.evolve(event));
    let order = rejected.order.expect("there");
    assert_eq!(
        (
            order.rejection_reason.as_str(),
            order.rejection_message.as_str()
        ),
        ("CARD_DECLINED", "the card was declined")
    );

    for command in [Act::Lock, Act::Cancel] {
        act(&state.clone(), command)
            .1
            .iter()
            .for_each(|event| state.evolve(event));
    }
    assert!(state.order.as_ref().expect("there").cancel_requested);
    let mut undone = state.clone();
    undone
        .reject(SAGA, "CANCELLED", "cancelled by a client")
        .events
        .iter()
        .for_each(|event| undone.evolve(event));
    let order = undone.order.expect("there");
    assert_eq!(
        (order.rejection_reason.as_str(), order.cancel_requested),
        ("CANCELLED", false)
    );
    assert_eq!(order.rejection_message, "the customer cancelled the order");

    act(&state.clone(), Act::Confirm)
        .1
        .iter()
        .for_each(|event| state.evolve(event));
    let order = state.order.clone().expect("there");
    assert_eq!(
        (
            order.status(),
            order.refund_saga_id.as_str(),
            order.cancel_requested
        ),
        (OrderStatus::Refunding, REFUND, true)
    );
    act(&state.clone(), Act::MarkRefunded)
        .1
        .iter()
        .for_each(|event| state.evolve(event));
    let order = state.order.expect("there");
    assert_eq!(
        (order.status(), order.cancel_requested),
        (OrderStatus::Refunded, false)
    );
}

#[test]
fn an_undoing_without_a_reason_still_has_one() {
    let mut state = OrderState::default();
    state.evolve(&OrderEvent::Placed(placed()));
    let events = state.reject(SAGA, "", "").events;
    let [OrderEvent::Rejected(rejected)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(rejected.reason, "SAGA_ABORTED");
    assert!(!rejected.message.is_empty());
}
