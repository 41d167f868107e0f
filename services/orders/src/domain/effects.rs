//! What an order still owes to the coordinator, as a function of its state.

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::{Value, value};
use sagamesh_api::shop::orders::v1::{Order, OrderStatus};
use serde_json::json;

use super::OrderState;

/// Something that is owed until it is answered. All of them are safe to repeat: they name the saga.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Start the saga `place-order` of this id.
    StartSaga(String),
    /// Ask the coordinator to undo the saga of this id.
    CancelSaga(String),
    /// Start the saga `refund-order` of this id.
    StartRefund(String),
}

/// Every effect that is owed in this state, in the order in which to do them: a saga must be there before it can be cancelled.
#[must_use]
pub fn outstanding(state: &OrderState) -> Vec<Effect> {
    let Some(order) = &state.order else {
        return Vec::new();
    };
    let mut owed = Vec::new();
    match order.status() {
        OrderStatus::Pending => {
            if !state.saga_started {
                owed.push(Effect::StartSaga(order.saga_id.clone()));
            }
            if state.cancelled {
                owed.push(Effect::CancelSaga(order.saga_id.clone()));
            }
        }
        OrderStatus::Refunding if !state.refund_started => {
            owed.push(Effect::StartRefund(order.refund_saga_id.clone()))
        }
        OrderStatus::Unspecified
        | OrderStatus::Confirmed
        | OrderStatus::Rejected
        | OrderStatus::Refunding
        | OrderStatus::Refunded => {}
    }
    owed
}

/// The input fields of both sagas. `reason` is for refunds.
#[must_use]
pub fn saga_input(order: &Order, reason: Option<&str>) -> BTreeMap<String, Value> {
    let lines: Vec<_> = order
        .lines
        .iter()
        .map(|line| {
            json!({
                "sku": line.sku,
                "quantity": line.quantity,
                "unit_price_minor": line.unit_price.as_ref().map_or(0, |price| price.minor_units),
            })
        })
        .collect();
    let total = order.total.as_ref().map_or_else(
        || json!({ "minor_units": 0, "currency": "" }),
        |total| json!({ "minor_units": total.minor_units, "currency": total.currency }),
    );
    let mut fields = vec![
        ("order_id", order.order_id.clone()),
        ("customer_id", order.customer_id.clone()),
        ("lines", serde_json::Value::from(lines).to_string()),
        ("total", total.to_string()),
        ("payment_method", order.payment_method.clone()),
        ("contact_email", order.contact_email.clone()),
    ];
    if let Some(reason) = reason {
        fields.push(("reason", reason.to_owned()));
    }
    fields
        .into_iter()
        .map(|(name, text)| {
            (
                name.to_owned(),
                Value {
                    kind: Some(value::Kind::Text(text)),
                },
            )
        })
        .collect()
}
