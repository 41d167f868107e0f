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

mod definitions;
mod life;
mod random;
mod requests;

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
