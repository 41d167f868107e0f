//! API composition: one answer from several services, whole or with the missing parts named.

use std::time::Duration;

use sagamesh_api::shop::inventory::v1::GetReservationRequest;
use sagamesh_api::shop::notifications::v1::ListNotificationsRequest;
use sagamesh_api::shop::payments::v1::{GetPaymentRequest, ListPaymentsRequest};
use tonic::{Code, Status};

use crate::backends::{Backends, within};
use crate::rest::model::{
    Dashboard, DashboardOrder, Money, Notification, Order, OrderDetails, Payment, Reservation,
};

/// How long a part of an answer may take before it is left out.
const PART_TIMEOUT: Duration = Duration::from_secs(2);

/// What a part of an answer came to.
struct Part<T> {
    value: T,
    missing: bool,
}

/// Takes an answer, "there is none", or notes that it could not be had.
fn part<T: Default>(answer: Result<T, Status>) -> Part<T> {
    match answer {
        Ok(value) => Part {
            value,
            missing: false,
        },
        Err(status) if status.code() == Code::NotFound => Part {
            value: T::default(),
            missing: false,
        },
        Err(status) => {
            tracing::warn!(code = ?status.code(), message = status.message(), "a part of a composed answer is missing");
            Part {
                value: T::default(),
                missing: true,
            }
        }
    }
}

/// Joins an order with its payment, its stock and its notifications, all asked for at the same time.
pub(crate) async fn order_details(backends: &Backends, order: Order) -> OrderDetails {
    let id = &order.order_id;
    let payment = async {
        let request = within(
            PART_TIMEOUT,
            GetPaymentRequest {
                payment_id: id.clone(),
                min_position: 0,
            },
        );
        let answer = backends.payments.clone().get_payment(request).await;
        part(answer.map(|answer| answer.into_inner().payment.map(Payment::from)))
    };
    let reservation = async {
        let request = within(
            PART_TIMEOUT,
            GetReservationRequest {
                reservation_id: id.clone(),
                min_position: 0,
            },
        );
        let answer = backends.inventory.clone().get_reservation(request).await;
        part(answer.map(|answer| answer.into_inner().reservation.map(Reservation::from)))
    };
    let notifications = notifications(
        backends,
        ListNotificationsRequest {
            order_id: id.clone(),
            page_size: 50,
            ..Default::default()
        },
    );
    let (payment, reservation, notifications) = tokio::join!(payment, reservation, notifications);

    let missing = [
        ("payment", payment.missing),
        ("reservation", reservation.missing),
        ("notifications", notifications.missing),
    ];
    OrderDetails {
        partial: names(&missing),
        payment: payment.value,
        reservation: reservation.value,
        notifications: notifications.value,
        order,
    }
}

/// A customer's page: the newest orders with their payments' states, sums, and the newest messages.
pub(crate) async fn dashboard(
    backends: &Backends,
    customer_id: String,
    orders: Vec<Order>,
) -> Dashboard {
    let payments = async {
        let request = within(
            PART_TIMEOUT,
            ListPaymentsRequest {
                customer_id: customer_id.clone(),
                page_size: 500,
                page_token: String::new(),
            },
        );
        let answer = backends.payments.clone().list_payments(request).await;
        part(answer.map(|answer| answer.into_inner().payments))
    };
    let notifications = notifications(
        backends,
        ListNotificationsRequest {
            customer_id: customer_id.clone(),
            page_size: 10,
            ..Default::default()
        },
    );
    let (payments, notifications) = tokio::join!(payments, notifications);

    let mut counts = std::collections::BTreeMap::new();
    let mut spent = std::collections::BTreeMap::<String, i64>::new();
    for order in &orders {
        *counts.entry(order.status.clone()).or_insert(0) += 1;
        if let (Some(total), "CONFIRMED") = (&order.total, order.status.as_str()) {
            let sum = spent.entry(total.currency.clone()).or_default();
            *sum = sum.saturating_add(total.minor_units);
        }
    }
    let state = |id: &str| {
        payments
            .value
            .iter()
            .find(|payment| payment.payment_id == id)
            .map(|payment| Payment::from(payment.clone()).state)
    };
    let missing = [
        ("payments", payments.missing),
        ("notifications", notifications.missing),
    ];
    Dashboard {
        recent_orders: orders
            .into_iter()
            .map(|order| DashboardOrder {
                payment_state: state(&order.order_id),
                order,
            })
            .collect(),
        counts,
        spent: spent
            .into_iter()
            .map(|(currency, minor_units)| Money {
                minor_units,
                currency,
            })
            .collect(),
        notifications: notifications.value,
        partial: names(&missing),
        customer_id,
    }
}

async fn notifications(
    backends: &Backends,
    request: ListNotificationsRequest,
) -> Part<Vec<Notification>> {
    let answer = backends
        .notifications
        .clone()
        .list_notifications(within(PART_TIMEOUT, request))
        .await;
    part(answer.map(|answer| {
        answer
            .into_inner()
            .notifications
            .into_iter()
            .map(Notification::from)
            .collect()
    }))
}

fn names(parts: &[(&'static str, bool)]) -> Vec<&'static str> {
    parts
        .iter()
        .filter(|(_, missing)| *missing)
        .map(|(name, _)| *name)
        .collect()
}
