//! From the orders' events to notifications.

use sagamesh_api::shop::notifications::v1::{NotificationKind, NotificationRecorded};
use sagamesh_api::shop::orders::v1::{OrderPlaced, OrderRejected};

use super::{Line, NotificationRecord, Total, compose, notification_id};

/// An event of an order that customers are told about.
#[derive(Clone, Debug, PartialEq)]
pub enum OrderNews {
    /// It was placed: a receipt is owed.
    Placed(OrderPlaced),
    /// It did not come about: that is owed too, to the receipt's recipient.
    Rejected {
        /// UUID of the order.
        order_id: String,
        /// What happened.
        rejected: OrderRejected,
    },
}

/// Ids of the notifications that [`tell`] reads or writes for this news: its own first.
#[must_use]
pub fn needs(news: &OrderNews) -> Vec<String> {
    match news {
        OrderNews::Placed(placed) => {
            vec![notification_id(&placed.order_id, NotificationKind::Receipt)]
        }
        OrderNews::Rejected { order_id, .. } => vec![
            notification_id(order_id, NotificationKind::Rejection),
            notification_id(order_id, NotificationKind::Receipt),
        ],
    }
}

/// What to record for this news, when `receipt` is the order's receipt. A rejection tells the reason for people; it names whoever the
/// receipt named, because the event itself names nobody.
#[must_use]
pub fn tell(news: &OrderNews, receipt: &NotificationRecord) -> NotificationRecorded {
    let traceparent = match news {
        OrderNews::Placed(placed) => &placed.traceparent,
        OrderNews::Rejected { rejected, .. } => &rejected.traceparent,
    };
    NotificationRecorded {
        traceparent: traceparent.clone(),
        ..text(news, receipt)
    }
}

fn text(news: &OrderNews, receipt: &NotificationRecord) -> NotificationRecorded {
    match news {
        OrderNews::Placed(placed) => {
            let lines: Vec<_> = placed
                .lines
                .iter()
                .map(|line| Line {
                    sku: line.sku.clone(),
                    quantity: line.quantity,
                    unit_price_minor: line
                        .unit_price
                        .as_ref()
                        .map_or(0, |price| price.minor_units),
                })
                .collect();
            let total = placed
                .total
                .as_ref()
                .map_or_else(Total::default, |total| Total {
                    minor_units: total.minor_units,
                    currency: total.currency.clone(),
                });
            let (order, customer, email) =
                (&placed.order_id, &placed.customer_id, &placed.contact_email);
            compose(
                NotificationKind::Receipt,
                order,
                customer,
                email,
                &lines,
                &total,
                "",
            )
        }
        OrderNews::Rejected { order_id, rejected } => {
            let (customer, recipient) = receipt.recorded.as_ref().map_or(("", ""), |receipt| {
                (receipt.customer_id.as_str(), receipt.recipient.as_str())
            });
            let kind = NotificationKind::Rejection;
            compose(
                kind,
                order_id,
                customer,
                recipient,
                &[],
                &Total::default(),
                &rejected.message,
            )
        }
    }
}
