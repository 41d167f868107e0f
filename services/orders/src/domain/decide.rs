//! The legal transitions of an order: one function a command, each matching on the status.

use sagamesh_api::shop::orders::v1::{
    CancelRequested, OrderConfirmed, OrderLocked, OrderPlaced, OrderRefunded, OrderRejected,
    OrderStatus, SagaStarted,
};

use super::{OrderEvent, OrderState};

/// Reason of a rejection because the customer cancelled.
pub(super) const CANCELLED: &str = "CANCELLED";

/// Why a cancellation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelRefusal {
    /// There is no such order, or it is another customer's.
    NotFound,
    /// It was rejected before: there is nothing to cancel.
    Rejected,
}

/// What a cancellation changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Cancelled {
    /// It is asked for now: these events.
    Now(Vec<OrderEvent>),
    /// It had been asked for before, or is already done: nothing changes.
    Before,
}

/// A business "no" of a saga step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRefusal {
    /// Machine-readable.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What a saga step changes, and its outcome. A refusal may record something too.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDecision {
    /// What happened.
    pub events: Vec<OrderEvent>,
    /// Success or a business "no".
    pub outcome: Result<(), StepRefusal>,
}

impl StepDecision {
    fn done(events: Vec<OrderEvent>) -> Self {
        Self {
            events,
            outcome: Ok(()),
        }
    }

    fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            events: Vec::new(),
            outcome: Err(StepRefusal {
                reason,
                message: message.into(),
            }),
        }
    }

    fn unknown_order() -> Self {
        Self::refused("ORDER_NOT_FOUND", "orders has no order for this saga")
    }
}

impl OrderState {
    /// Places the order. Nothing when this id was placed before.
    #[must_use]
    pub fn place(&self, placed: &OrderPlaced) -> Vec<OrderEvent> {
        match self.order {
            None => vec![OrderEvent::Placed(placed.clone())],
            Some(_) => Vec::new(),
        }
    }

    /// The coordinator holds the saga: its start is no longer owed. Nothing when that is known already, or when the order went on since.
    #[must_use]
    pub fn saga_started(&self, saga_id: &str, refund: bool) -> Vec<OrderEvent> {
        let owed = match self.status() {
            OrderStatus::Pending => !refund && !self.saga_started,
            OrderStatus::Refunding => refund && !self.refund_started,
            OrderStatus::Unspecified
            | OrderStatus::Confirmed
            | OrderStatus::Rejected
            | OrderStatus::Refunded => false,
        };
        if owed {
            vec![OrderEvent::SagaStarted(SagaStarted {
                saga_id: saga_id.to_owned(),
                refund,
            })]
        } else {
            Vec::new()
        }
    }

    /// Step create-order: the saga takes the order's semantic lock. An order that the customer cancelled meanwhile is rejected here, because
    /// a step that said no is not compensated.
    #[must_use]
    pub fn lock(&self, saga_id: &str) -> StepDecision {
        let Some(order) = &self.order else {
            return StepDecision::unknown_order();
        };
        if order.saga_id != saga_id {
            return StepDecision::refused("ORDER_LOCKED", "the order belongs to another saga");
        }
        match order.status() {
            OrderStatus::Pending if self.cancelled => StepDecision {
                events: vec![rejected(
                    saga_id,
                    CANCELLED,
                    "the customer cancelled the order",
                )],
                outcome: Err(StepRefusal {
                    reason: "ORDER_CANCELLED",
                    message: "the customer cancelled the order before it was carried out"
                        .to_owned(),
                }),
            },
            OrderStatus::Pending if self.locked => StepDecision::done(Vec::new()),
            OrderStatus::Pending => StepDecision::done(vec![OrderEvent::Locked(OrderLocked {
                saga_id: saga_id.to_owned(),
            })]),
            OrderStatus::Unspecified => StepDecision::unknown_order(),
            OrderStatus::Confirmed
            | OrderStatus::Rejected
            | OrderStatus::Refunding
            | OrderStatus::Refunded => {
                StepDecision::refused("ORDER_NOT_PENDING", "the order is no longer pending")
            }
        }
    }

    /// Compensation of create-order: the order did not come about. Undoing what never was, or what is undone, changes nothing.
    #[must_use]
    pub fn reject(&self, saga_id: &str, reason: &str, message: &str) -> StepDecision {
        match self.status() {
            OrderStatus::Unspecified | OrderStatus::Rejected => StepDecision::done(Vec::new()),
            OrderStatus::Pending => {
                StepDecision::done(vec![self.rejection(saga_id, reason, message)])
            }
            OrderStatus::Confirmed | OrderStatus::Refunding | OrderStatus::Refunded => {
                StepDecision::refused(
                    "ORDER_CONFIRMED",
                    "a confirmed order is undone by a refund, not by a rejection",
                )
            }
        }
    }

    /// Step confirm-order. A cancellation that came too late for the saga becomes a refund, in the same breath.
    #[must_use]
    pub fn confirm(&self, saga_id: &str, refund_saga_id: &str) -> StepDecision {
        match self.status() {
            OrderStatus::Unspecified => StepDecision::unknown_order(),
            OrderStatus::Pending => {
                let mut events = vec![OrderEvent::Confirmed(OrderConfirmed {
                    saga_id: saga_id.to_owned(),
                })];
                if self.cancelled {
                    events.push(refund_requested(
                        "cancelled while it was completed",
                        refund_saga_id,
                    ));
                }
                StepDecision::done(events)
            }
            OrderStatus::Confirmed | OrderStatus::Refunding | OrderStatus::Refunded => {
                StepDecision::done(Vec::new())
            }
            OrderStatus::Rejected => {
                StepDecision::refused("ORDER_REJECTED", "the order was rejected before")
            }
        }
    }

    /// Step close-order of a refund. The money is back by now, whoever started the refund.
    #[must_use]
    pub fn mark_refunded(&self, saga_id: &str) -> StepDecision {
        match self.status() {
            OrderStatus::Unspecified => StepDecision::unknown_order(),
            OrderStatus::Confirmed | OrderStatus::Refunding => {
                StepDecision::done(vec![OrderEvent::Refunded(OrderRefunded {
                    saga_id: saga_id.to_owned(),
                })])
            }
            OrderStatus::Refunded => StepDecision::done(Vec::new()),
            OrderStatus::Pending | OrderStatus::Rejected => StepDecision::refused(
                "ORDER_NOT_CONFIRMED",
                "only a confirmed order can be refunded",
            ),
        }
    }

    /// The saga ended undone without this order having heard of it (it was cancelled before its first step, say).
    #[must_use]
    pub fn saga_undone(&self, saga_id: &str, reason: &str, message: &str) -> Vec<OrderEvent> {
        match self.status() {
            OrderStatus::Pending => vec![self.rejection(saga_id, reason, message)],
            OrderStatus::Unspecified
            | OrderStatus::Confirmed
            | OrderStatus::Rejected
            | OrderStatus::Refunding
            | OrderStatus::Refunded => Vec::new(),
        }
    }

    /// The customer (`customer_id`, empty for any) cancels.
    ///
    /// # Errors
    /// [`CancelRefusal`]: nothing is recorded.
    pub fn cancel(
        &self,
        customer_id: &str,
        reason: &str,
        refund_saga_id: &str,
    ) -> Result<Cancelled, CancelRefusal> {
        let order = self.order.as_ref().ok_or(CancelRefusal::NotFound)?;
        if !customer_id.is_empty() && order.customer_id != customer_id {
            return Err(CancelRefusal::NotFound);
        }
        match order.status() {
            OrderStatus::Unspecified => Err(CancelRefusal::NotFound),
            OrderStatus::Pending if !self.cancelled => {
                Ok(Cancelled::Now(vec![OrderEvent::CancelRequested(
                    CancelRequested {
                        reason: reason.to_owned(),
                        refund: false,
                        refund_saga_id: String::new(),
                        traceparent: String::new(),
                    },
                )]))
            }
            OrderStatus::Confirmed => Ok(Cancelled::Now(vec![refund_requested(
                reason,
                refund_saga_id,
            )])),
            OrderStatus::Rejected if !self.cancelled => Err(CancelRefusal::Rejected),
            OrderStatus::Pending
            | OrderStatus::Rejected
            | OrderStatus::Refunding
            | OrderStatus::Refunded => Ok(Cancelled::Before),
        }
    }

    /// The rejection, in the customer's terms: whoever cancelled reads that, not how the saga worded it.
    fn rejection(&self, saga_id: &str, reason: &str, message: &str) -> OrderEvent {
        if self.cancelled && matches!(reason, "" | "ORDER_CANCELLED" | "CANCELLED") {
            return rejected(saga_id, CANCELLED, "the customer cancelled the order");
        }
        let reason = if reason.is_empty() {
            "SAGA_ABORTED"
        } else {
            reason
        };
        let message = if message.is_empty() {
            "the order could not be carried out"
        } else {
            message
        };
        rejected(saga_id, reason, message)
    }
}

fn rejected(saga_id: &str, reason: &str, message: &str) -> OrderEvent {
    OrderEvent::Rejected(OrderRejected {
        saga_id: saga_id.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        traceparent: String::new(),
    })
}

fn refund_requested(reason: &str, refund_saga_id: &str) -> OrderEvent {
    OrderEvent::CancelRequested(CancelRequested {
        reason: reason.to_owned(),
        refund: true,
        refund_saga_id: refund_saga_id.to_owned(),
        traceparent: String::new(),
    })
}
