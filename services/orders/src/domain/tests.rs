//! Every state that commands can reach, every command in each of them; and random requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use sagamesh_api::saga::v1::{Phase, step, value};
use sagamesh_api::shop::inventory::v1::LineAvailability;
use sagamesh_api::shop::orders::v1::{
    CancelOrderRequest, OrderLine, OrderPlaced, OrderStatus, PlaceOrderRequest,
};
use sagamesh_api::shop::v1::Money;

use super::*;

const SAGA: &str = "0198c5f0-0000-7000-8000-000000000001";
const REFUND: &str = "0198c5f0-0000-7000-8000-000000000002";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Place,
    Started,
    RefundStarted,
    Lock,
    ForeignLock,
    Reject,
    Confirm,
    MarkRefunded,
    Undone,
    Cancel,
    ForeignCancel,
}

const ACTS: [Act; 11] = [
    Act::Place,
    Act::Started,
    Act::RefundStarted,
    Act::Lock,
    Act::ForeignLock,
    Act::Reject,
    Act::Confirm,
    Act::MarkRefunded,
    Act::Undone,
    Act::Cancel,
    Act::ForeignCancel,
];

fn placed() -> OrderPlaced {
    OrderPlaced {
        order_id: SAGA.to_owned(),
        customer_id: "alice".to_owned(),
        lines: vec![line("mug", 2, Some(500))],
        total: Some(eur(1_000)),
        payment_method: "pm_ok".to_owned(),
        contact_email: "alice@example.com".to_owned(),
        traceparent: String::new(),
    }
}

fn eur(minor_units: i64) -> Money {
    Money {
        minor_units,
        currency: "EUR".to_owned(),
    }
}

fn line(sku: &str, quantity: u32, price: Option<i64>) -> OrderLine {
    OrderLine {
        sku: sku.to_owned(),
        quantity,
        unit_price: price.map(eur),
    }
}

/// What an act answered, in a word, and its events.
fn act(state: &OrderState, act: Act) -> (&'static str, Vec<OrderEvent>) {
    let step = |decision: StepDecision| match decision.outcome {
        Ok(()) => ("done", decision.events),
        Err(refusal) => (refusal.reason, decision.events),
    };
    let cancel = |answer: Result<Cancelled, CancelRefusal>| match answer {
        Ok(Cancelled::Now(events)) => ("now", events),
        Ok(Cancelled::Before) => ("before", Vec::new()),
        Err(CancelRefusal::NotFound) => ("not found", Vec::new()),
        Err(CancelRefusal::Rejected) => ("rejected", Vec::new()),
    };
    match act {
        Act::Place => ("", state.place(&placed())),
        Act::Started => ("", state.saga_started(SAGA, false)),
        Act::RefundStarted => ("", state.saga_started(REFUND, true)),
        Act::Lock => step(state.lock(SAGA)),
        Act::ForeignLock => step(state.lock("another")),
        Act::Reject => step(state.reject(SAGA, "CARD_DECLINED", "the card was declined")),
        Act::Confirm => step(state.confirm(SAGA, REFUND)),
        Act::MarkRefunded => step(state.mark_refunded(REFUND)),
        Act::Undone => ("", state.saga_undone(SAGA, "DEADLINE", "it took too long")),
        Act::Cancel => cancel(state.cancel("alice", "changed my mind", REFUND)),
        Act::ForeignCancel => cancel(state.cancel("mallory", "", REFUND)),
    }
}

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

fn request() -> PlaceOrderRequest {
    PlaceOrderRequest {
        request_id: REFUND.to_owned(),
        customer_id: "alice".to_owned(),
        lines: vec![line("mug", 2, None), line("tea_pot-1", 1, None)],
        payment_method: "pm_ok".to_owned(),
        currency: "EUR".to_owned(),
        contact_email: "alice@example.com".to_owned(),
    }
}

fn fields(result: Result<ValidOrder, Vec<Violation>>) -> Vec<String> {
    result
        .err()
        .unwrap_or_default()
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

#[test]
fn everything_wrong_is_told_at_once() {
    assert_eq!(fields(validate_place(request())), Vec::<String>::new());
    assert_eq!(
        fields(validate_place(PlaceOrderRequest::default())),
        [
            "request_id",
            "customer_id",
            "lines",
            "payment_method",
            "currency"
        ]
    );
    let bad = PlaceOrderRequest {
        request_id: "0198c5f0-0000-7000-8000_000000000002".to_owned(),
        customer_id: "a\nb".to_owned(),
        lines: vec![
            line("mug", 0, None),
            line("mug", 10_001, Some(-1)),
            line("bad sku", 1, None),
            OrderLine {
                unit_price: Some(Money {
                    minor_units: 5,
                    currency: "USD".to_owned(),
                }),
                ..line("cup", 1, None)
            },
        ],
        payment_method: "PM OK".to_owned(),
        currency: "eur".to_owned(),
        contact_email: "nobody".to_owned(),
    };
    assert_eq!(
        fields(validate_place(bad)),
        [
            "request_id",
            "customer_id",
            "lines[0].quantity",
            "lines[1].sku",
            "lines[1].quantity",
            "lines[1].unit_price.minor_units",
            "lines[1].unit_price.currency",
            "lines[2].sku",
            "lines[3].unit_price.currency",
            "payment_method",
            "currency",
            "contact_email",
        ]
    );
    let many = PlaceOrderRequest {
        lines: (0..51).map(|n| line(&format!("s{n}"), 1, None)).collect(),
        ..request()
    };
    assert_eq!(fields(validate_place(many)), ["lines"]);
}

#[test]
fn addresses_are_checked() {
    let with = |email: &str| {
        fields(validate_place(PlaceOrderRequest {
            contact_email: email.to_owned(),
            ..request()
        }))
    };
    for good in [
        "",
        "a@b",
        "first.last+tag@mail.example.com",
        &format!("{}@{}", "a".repeat(64), "b.c".repeat(10)),
    ] {
        assert!(with(good).is_empty(), "{good}");
    }
    let long = format!("a@{}", ["b".repeat(63).as_str(); 4].join("."));
    for bad in [
        "a",
        "@b",
        "a@",
        "a b@c",
        "a@b..c",
        "a@-b",
        ".a@b",
        "a..b@c",
        "a@b\r\nBcc: x@y",
        "ä@b",
        "a@b@c",
        &long,
        &"a".repeat(300),
    ] {
        assert_eq!(with(bad), ["contact_email"], "{bad:?}");
    }
}

#[test]
fn a_cancellation_is_checked() {
    let good = CancelOrderRequest {
        order_id: SAGA.to_owned(),
        ..CancelOrderRequest::default()
    };
    assert_eq!(validate_cancel(&good), Ok(()));
    let bad = CancelOrderRequest {
        order_id: "1".to_owned(),
        customer_id: "x".repeat(129),
        reason: "x".repeat(501),
        request_id: "y".to_owned(),
    };
    let found: Vec<_> = validate_cancel(&bad)
        .unwrap_err()
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(found, ["order_id", "customer_id", "reason", "request_id"]);
}

fn available(sku: &str, available: u64, price: i64) -> LineAvailability {
    LineAvailability {
        sku: sku.to_owned(),
        requested: 0,
        available,
        unit_price: Some(eur(price)),
        unknown: false,
    }
}

fn priced(
    request: PlaceOrderRequest,
    answer: &[LineAvailability],
) -> Result<PricedOrder, AvailabilityProblem> {
    price(validate_place(request).expect("valid"), answer)
}

#[test]
fn prices_come_from_the_catalogue() {
    let answer = [available("tea_pot-1", 1, 1_999), available("mug", 2, 500)];
    let placed = priced(request(), &answer)
        .expect("priced")
        .into_placed(SAGA);
    assert_eq!(placed.total, Some(eur(2_999)));
    assert_eq!(
        placed.lines,
        vec![line("mug", 2, Some(500)), line("tea_pot-1", 1, Some(1_999))]
    );

    let same = PlaceOrderRequest {
        lines: vec![line("mug", 2, Some(500))],
        ..request()
    };
    assert!(priced(same, &answer).is_ok());
    let other = PlaceOrderRequest {
        lines: vec![line("mug", 2, Some(499))],
        ..request()
    };
    let Err(AvailabilityProblem::Invalid(found)) = priced(other, &answer) else {
        panic!("not refused")
    };
    assert_eq!(found[0].field, "lines[0].unit_price");
}

#[test]
fn what_inventory_cannot_give_is_told() {
    let unknown = LineAvailability {
        sku: "mug".to_owned(),
        unknown: true,
        ..LineAvailability::default()
    };
    let Err(AvailabilityProblem::Invalid(found)) =
        priced(request(), &[unknown, available("tea_pot-1", 0, 5)])
    else {
        panic!()
    };
    assert_eq!(
        found
            .iter()
            .map(|violation| violation.field.as_str())
            .collect::<Vec<_>>(),
        ["lines[0].sku"]
    );

    let short = priced(
        request(),
        &[available("mug", 1, 5), available("tea_pot-1", 0, 5)],
    );
    assert_eq!(
        short,
        Err(AvailabilityProblem::Insufficient(vec![
            ("mug".to_owned(), 2, 1),
            ("tea_pot-1".to_owned(), 1, 0)
        ]))
    );
    assert!(matches!(
        priced(request(), &[available("mug", 9, 5)]),
        Err(AvailabilityProblem::Nonsense(_))
    ));
    assert!(matches!(
        priced(
            request(),
            &[available("mug", 9, -5), available("tea_pot-1", 9, 5)]
        ),
        Err(AvailabilityProblem::Nonsense(_))
    ));

    let dollars = PlaceOrderRequest {
        currency: "USD".to_owned(),
        ..request()
    };
    let Err(AvailabilityProblem::Invalid(found)) = priced(
        dollars,
        &[available("mug", 9, 5), available("tea_pot-1", 9, 5)],
    ) else {
        panic!()
    };
    assert_eq!(found[0].field, "currency");

    for price in [MAX_TOTAL_MINOR, i64::MAX] {
        let Err(AvailabilityProblem::Invalid(found)) = priced(
            request(),
            &[available("mug", 9, price), available("tea_pot-1", 9, 5)],
        ) else {
            panic!()
        };
        assert_eq!(found[0].field, "lines");
    }
}

proptest! {
    /// The total is the sum over the lines, or the order is refused; never an overflow.
    #[test]
    fn totals_are_exact_or_refused(lines in proptest::collection::vec((1_u32..=10_000, 0_i64..=i64::MAX), 1..=50)) {
        let request = PlaceOrderRequest {
            lines: lines.iter().enumerate().map(|(n, (quantity, _))| line(&format!("s{n}"), *quantity, None)).collect(),
            ..request()
        };
        let answer: Vec<_> = lines.iter().enumerate().map(|(n, (_, price))| available(&format!("s{n}"), 10_000, *price)).collect();
        let exact: i128 = lines.iter().map(|(quantity, price)| i128::from(*quantity) * i128::from(*price)).sum();
        match priced(request, &answer) {
            Ok(order) => prop_assert_eq!(i128::from(order.into_placed(SAGA).total.expect("set").minor_units), exact),
            Err(AvailabilityProblem::Invalid(_)) => prop_assert!(exact > i128::from(MAX_TOTAL_MINOR)),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    /// Small totals are never refused.
    #[test]
    fn small_totals_are_accepted(lines in proptest::collection::vec((1_u32..=100, 0_i64..=10_000), 1..=50)) {
        let request = PlaceOrderRequest {
            lines: lines.iter().enumerate().map(|(n, (quantity, _))| line(&format!("s{n}"), *quantity, None)).collect(),
            ..request()
        };
        let answer: Vec<_> = lines.iter().enumerate().map(|(n, (_, price))| available(&format!("s{n}"), 100, *price)).collect();
        let exact: i64 = lines.iter().map(|(quantity, price)| i64::from(*quantity) * *price).sum();
        prop_assert_eq!(priced(request, &answer).expect("accepted").into_placed(SAGA).total, Some(eur(exact)));
    }

    /// Whatever comes, a history never contradicts itself: one end, a refund only after a confirmation, and a settled order owes nothing.
    #[test]
    fn histories_are_sound(acts in proptest::collection::vec(0..ACTS.len(), 0..40)) {
        let mut state = OrderState::default();
        let mut history = Vec::new();
        for index in acts {
            for event in act(&state, ACTS[index]).1 {
                state.evolve(&event);
                history.push(event);
            }
        }
        let count = |wanted: fn(&OrderEvent) -> bool| history.iter().filter(|event| wanted(event)).count();
        let confirmed = count(|event| matches!(event, OrderEvent::Confirmed(_)));
        let rejected = count(|event| matches!(event, OrderEvent::Rejected(_)));
        let refunded = count(|event| matches!(event, OrderEvent::Refunded(_)));
        prop_assert!(confirmed + rejected <= 1);
        prop_assert!(refunded <= confirmed);
        prop_assert!(count(|event| matches!(event, OrderEvent::Placed(_))) <= 1);
        prop_assert!(count(|event| matches!(event, OrderEvent::Locked(_))) <= 1);
        prop_assert!(count(|event| matches!(event, OrderEvent::SagaStarted(_))) <= 2);
        if state.is_settled() {
            prop_assert!(outstanding(&state).is_empty());
        }
        // Replaying gives the same state.
        let mut again = OrderState::default();
        history.iter().for_each(|event| again.evolve(event));
        prop_assert_eq!(again, state);
    }

    /// No input makes the checks panic, and what passes keeps the limits.
    #[test]
    fn checks_hold_for_any_text(id in ".{0,40}", customer in ".{0,140}", sku in ".{0,70}", method in ".{0,70}", currency in ".{0,5}", email in ".{0,40}@.{0,40}") {
        let request = PlaceOrderRequest {
            request_id: id, customer_id: customer, lines: vec![line(&sku, 1, None)], payment_method: method, currency, contact_email: email,
        };
        if let Ok(valid) = validate_place(request) {
            let request = valid.request();
            prop_assert!(request.contact_email.is_ascii() && !request.contact_email.contains(char::is_whitespace));
            prop_assert_eq!(request.request_id.len(), 36);
        }
    }
}

#[test]
fn the_definitions_keep_the_rules_of_phases() {
    for definition in definitions() {
        assert_eq!(
            revision_of(&definition.description),
            REVISION,
            "{}",
            definition.name
        );
        let mut ancestors: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let pivot = definition
            .steps
            .iter()
            .find(|step| step.phase() == Phase::Pivot)
            .expect("a pivot");
        for step in &definition.steps {
            let mut all = BTreeSet::new();
            for before in &step.after {
                all.insert(before.as_str());
                all.extend(
                    ancestors
                        .get(before.as_str())
                        .expect("steps are listed after their predecessors"),
                );
            }
            ancestors.insert(&step.name, all);
        }
        for step in &definition.steps {
            let Some(step::Kind::Call(call)) = &step.kind else {
                panic!("{} is no call", step.name)
            };
            assert_eq!(
                call.compensation.is_empty(),
                step.phase() != Phase::Compensatable,
                "{}",
                step.name
            );
            assert!(call.action.starts_with(&call.participant), "{}", step.name);
            match step.phase() {
                Phase::Compensatable => {
                    assert!(ancestors[pivot.name.as_str()].contains(step.name.as_str()))
                }
                Phase::Retriable => {
                    assert!(ancestors[step.name.as_str()].contains(pivot.name.as_str()))
                }
                Phase::Pivot => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(revision_of("Somebody else's. Revision x."), 0);
    assert_eq!(revision_of(""), 0);
}

#[test]
fn sagas_get_what_their_steps_ask_for() {
    let mut state = OrderState::default();
    state.evolve(&OrderEvent::Placed(placed()));
    let order = state.order.expect("placed");
    let place = saga_input(&order, None);
    let refund = saga_input(&order, Some("broken"));
    for (definition, input) in definitions().iter().zip([&place, &refund]) {
        for step in &definition.steps {
            let Some(step::Kind::Call(call)) = &step.kind else {
                panic!()
            };
            for field in &call.input_fields {
                assert!(input.contains_key(field), "{} wants {field}", step.name);
            }
        }
    }
    let text = |name: &str| match &place[name].kind {
        Some(value::Kind::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        text("lines"),
        r#"[{"quantity":2,"sku":"mug","unit_price_minor":500}]"#
    );
    assert_eq!(text("total"), r#"{"currency":"EUR","minor_units":1000}"#);
}
