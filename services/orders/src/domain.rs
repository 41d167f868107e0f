//! What an order is and how it changes. Pure: no clock, no randomness, no IO.
//!
//! ```text
//!            place          lock            confirm            cancel             close
//!  (nothing) ----> PENDING ----> PENDING(locked) ----> CONFIRMED ----> REFUNDING ----> REFUNDED
//!                     |               |
//!                     +---------------+--- reject (saga undone, customer cancelled) ---> REJECTED
//! ```
//!
//! [`OrderState`] is folded from [`OrderEvent`]s by [`OrderState::evolve`]; `decide` holds the legal transitions, one function a
//! command; [`outstanding`] says which effects a state still owes.

mod decide;
mod definitions;
mod effects;
mod place;
#[cfg(test)]
mod tests;

pub use decide::{CancelRefusal, Cancelled, StepDecision, StepRefusal};
pub use definitions::{PLACE_ORDER, REFUND_ORDER, REVISION, definitions, revision_of};
pub use effects::{Effect, outstanding, saga_input};
pub use place::{
    AvailabilityProblem, MAX_TOTAL_MINOR, PricedOrder, ValidOrder, Violation, price,
    validate_cancel, validate_place,
};

use sagamesh_api::shop::orders::v1::{
    CancelRequested, Order, OrderConfirmed, OrderLocked, OrderPlaced, OrderRefunded, OrderRejected,
    OrderStatus, SagaStarted,
};

/// Something that happened to an order: the messages of `shop/orders/v1/events.proto`.
#[derive(Clone, Debug, PartialEq)]
pub enum OrderEvent {
    /// It was placed; the start of its saga is owed.
    Placed(OrderPlaced),
    /// The coordinator holds a saga of it.
    SagaStarted(SagaStarted),
    /// Its saga took the lock.
    Locked(OrderLocked),
    /// The customer asked for a cancellation.
    CancelRequested(CancelRequested),
    /// Its saga confirmed it.
    Confirmed(OrderConfirmed),
    /// It did not come about.
    Rejected(OrderRejected),
    /// It was paid back.
    Refunded(OrderRefunded),
}

/// An order as its events tell it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OrderState {
    /// The order, without its times and etag (those belong to the log); `None` before it was placed.
    pub order: Option<Box<Order>>,
    /// The coordinator is known to hold its saga.
    pub saga_started: bool,
    /// The saga holds the lock.
    pub locked: bool,
    /// The customer asked for a cancellation, at any time.
    pub cancelled: bool,
    /// The coordinator is known to hold its refund saga.
    pub refund_started: bool,
    /// The trace that what it owes continues: of the request that placed it, or that wants it refunded.
    pub traceparent: String,
}

impl OrderState {
    /// Where the order stands; `ORDER_STATUS_UNSPECIFIED` before it was placed.
    #[must_use]
    pub fn status(&self) -> OrderStatus {
        self.order
            .as_ref()
            .map_or(OrderStatus::Unspecified, |order| order.status())
    }

    /// Whether nothing can happen to it any more but a cancellation of a confirmed order.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(
            self.status(),
            OrderStatus::Confirmed | OrderStatus::Rejected | OrderStatus::Refunded
        ) && outstanding(self).is_empty()
    }

    /// Folds one event in. Total: what `decide` wrote can always be replayed.
    pub fn evolve(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::SagaStarted(started) if started.refund => self.refund_started = true,
            OrderEvent::SagaStarted(_) => self.saga_started = true,
            OrderEvent::Locked(_) => {
                // Only a saga that runs can lock.
                self.saga_started = true;
                self.locked = true;
            }
            OrderEvent::CancelRequested(cancel) => {
                self.cancelled = true;
                if cancel.refund {
                    self.traceparent.clone_from(&cancel.traceparent);
                }
            }
            OrderEvent::Confirmed(_) | OrderEvent::Rejected(_) => self.locked = false,
            OrderEvent::Placed(placed) => self.traceparent.clone_from(&placed.traceparent),
            OrderEvent::Refunded(_) => {}
        }
        apply(&mut self.order, event);
    }
}

impl OrderEvent {
    /// Within the trace that it happened in, where somebody continues that.
    #[must_use]
    pub fn within(mut self, trace: &str) -> Self {
        match &mut self {
            Self::Placed(OrderPlaced { traceparent, .. })
            | Self::CancelRequested(CancelRequested { traceparent, .. })
            | Self::Rejected(OrderRejected { traceparent, .. }) => trace.clone_into(traceparent),
            Self::SagaStarted(_) | Self::Locked(_) | Self::Confirmed(_) | Self::Refunded(_) => {}
        }
        self
    }
}

/// Folds one event into the order as it is shown. Also what the read side does.
pub fn apply(order: &mut Option<Box<Order>>, event: &OrderEvent) {
    if let OrderEvent::Placed(placed) = event {
        *order = Some(Box::new(Order {
            order_id: placed.order_id.clone(),
            customer_id: placed.customer_id.clone(),
            lines: placed.lines.clone(),
            total: placed.total.clone(),
            status: OrderStatus::Pending.into(),
            saga_id: placed.order_id.clone(),
            payment_method: placed.payment_method.clone(),
            contact_email: placed.contact_email.clone(),
            ..Order::default()
        }));
        return;
    }
    let Some(order) = order.as_mut() else { return };
    match event {
        OrderEvent::Placed(_) | OrderEvent::SagaStarted(_) | OrderEvent::Locked(_) => {}
        OrderEvent::CancelRequested(cancel) => {
            order.cancel_requested = true;
            if cancel.refund {
                order.status = OrderStatus::Refunding.into();
                order.refund_saga_id.clone_from(&cancel.refund_saga_id);
            }
        }
        OrderEvent::Confirmed(_) => order.status = OrderStatus::Confirmed.into(),
        OrderEvent::Rejected(rejected) => {
            order.status = OrderStatus::Rejected.into();
            order.rejection_reason.clone_from(&rejected.reason);
            order.rejection_message.clone_from(&rejected.message);
            order.cancel_requested = false;
        }
        OrderEvent::Refunded(refunded) => {
            order.status = OrderStatus::Refunded.into();
            order.refund_saga_id.clone_from(&refunded.saga_id);
            order.cancel_requested = false;
        }
    }
}
