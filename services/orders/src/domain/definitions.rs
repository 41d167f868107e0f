//! The two sagas of the shop, as data.

use prost_types::Duration;
use sagamesh_api::saga::v1::{Call, Definition, Phase, RetryPolicy, Step, step};

/// Name of the definition that carries an order out.
pub const PLACE_ORDER: &str = "place-order";
/// Name of the definition that pays a confirmed order back.
pub const REFUND_ORDER: &str = "refund-order";

/// Raised with every change of a definition below. A service activates its definitions only over older revisions, so that an old replica
/// which restarts during a deployment does not bring the old version back.
pub const REVISION: u32 = 2;

const REVISION_MARK: &str = "Revision ";

/// Both definitions, place-order first.
#[must_use]
pub fn definitions() -> [Definition; 2] {
    [place_order(), refund_order()]
}

/// The revision that a description of ours names; 0 when it names none.
#[must_use]
pub fn revision_of(description: &str) -> u32 {
    description
        .rsplit_once(REVISION_MARK)
        .and_then(|(_, rest)| rest.trim_end_matches('.').parse().ok())
        .unwrap_or(0)
}

fn place_order() -> Definition {
    let who = ["order_id", "customer_id"];
    Definition {
        name: PLACE_ORDER.to_owned(),
        steps: vec![
            undoable(
                "create-order",
                &[],
                "orders",
                "orders.LockOrder",
                "orders.RejectOrder",
                &who,
            ),
            undoable(
                "reserve-stock",
                &["create-order"],
                "inventory",
                "inventory.ReserveStock",
                "inventory.ReleaseStock",
                &["order_id", "customer_id", "lines"],
            ),
            undoable(
                "authorize-payment",
                &["create-order"],
                "payments",
                "payments.AuthorizePayment",
                "payments.VoidAuthorization",
                &["order_id", "customer_id", "total", "payment_method"],
            ),
            forward(
                "capture-payment",
                Phase::Pivot,
                &["reserve-stock", "authorize-payment"],
                "payments",
                "payments.CapturePayment",
                &["order_id", "customer_id", "total", "payment_method"],
            ),
            forward(
                "confirm-order",
                Phase::Retriable,
                &["capture-payment"],
                "orders",
                "orders.ConfirmOrder",
                &who,
            ),
            forward(
                "commit-stock",
                Phase::Retriable,
                &["capture-payment"],
                "inventory",
                "inventory.CommitStock",
                &["order_id", "customer_id", "lines"],
            ),
            forward(
                "send-confirmation",
                Phase::Retriable,
                &["confirm-order", "commit-stock"],
                "notifications",
                "notifications.SendConfirmation",
                &["order_id", "customer_id", "lines", "total", "contact_email"],
            ),
        ],
        // Past it an order that cannot be carried out is undone instead of staying pending for ever.
        deadline: Some(seconds(600)),
        retention: None,
        description: format!(
            "Carries an order out: reserve, authorise, capture, confirm. {REVISION_MARK}{REVISION}."
        ),
    }
}

fn refund_order() -> Definition {
    Definition {
        name: REFUND_ORDER.to_owned(),
        steps: vec![
            forward(
                "refund-payment",
                Phase::Pivot,
                &[],
                "payments",
                "payments.RefundPayment",
                &[
                    "order_id",
                    "customer_id",
                    "total",
                    "payment_method",
                    "reason",
                ],
            ),
            forward(
                "return-stock",
                Phase::Retriable,
                &["refund-payment"],
                "inventory",
                "inventory.ReturnStock",
                &["order_id", "customer_id", "lines"],
            ),
            forward(
                "close-order",
                Phase::Retriable,
                &["refund-payment"],
                "orders",
                "orders.MarkRefunded",
                &["order_id", "customer_id"],
            ),
            forward(
                "notify-refund",
                Phase::Retriable,
                &["close-order", "return-stock"],
                "notifications",
                "notifications.SendRefundNotice",
                &[
                    "order_id",
                    "customer_id",
                    "lines",
                    "total",
                    "contact_email",
                    "reason",
                ],
            ),
        ],
        deadline: None,
        retention: None,
        description: format!(
            "Pays a confirmed order back and returns its stock. {REVISION_MARK}{REVISION}."
        ),
    }
}

fn undoable(
    name: &str,
    after: &[&str],
    participant: &str,
    action: &str,
    undo: &str,
    fields: &[&str],
) -> Step {
    let mut step = forward(
        name,
        Phase::Compensatable,
        after,
        participant,
        action,
        fields,
    );
    if let Some(step::Kind::Call(call)) = &mut step.kind {
        call.compensation = undo.to_owned();
        call.compensation_retry = Some(retry(10));
    }
    step
}

fn forward(
    name: &str,
    phase: Phase,
    after: &[&str],
    participant: &str,
    action: &str,
    fields: &[&str],
) -> Step {
    Step {
        name: name.to_owned(),
        phase: phase.into(),
        after: owned(after),
        kind: Some(step::Kind::Call(Call {
            participant: participant.to_owned(),
            action: action.to_owned(),
            timeout: Some(seconds(10)),
            // A participant that died in the middle is noticed before that: another replica may do it, or itself when it is back.
            heartbeat_timeout: Some(seconds(5)),
            retry: Some(retry(5)),
            input_fields: owned(fields),
            ..Call::default()
        })),
    }
}

fn retry(max_attempts: u32) -> RetryPolicy {
    RetryPolicy {
        max_attempts,
        initial_backoff: Some(Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        max_backoff: Some(seconds(30)),
        multiplier: 2.0,
    }
}

const fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
