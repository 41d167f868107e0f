//! The JSON that REST callers send and get. Names and units are those of the protobuf contracts.

use sagamesh_api::shop::inventory::v1 as inventory;
use sagamesh_api::shop::notifications::v1 as notifications;
use sagamesh_api::shop::orders::v1 as orders;
use sagamesh_api::shop::payments::v1 as payments;
use sagamesh_api::shop::v1 as shop;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// An amount of money.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Minor units of the currency (cents for EUR).
    #[schema(example = 1250)]
    pub minor_units: i64,
    /// ISO 4217 code.
    #[schema(example = "EUR")]
    pub currency: String,
}

/// A line of an order that is placed.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLine {
    /// What.
    #[schema(example = "coffee-beans")]
    pub sku: String,
    /// How many: 1 to 10,000.
    #[schema(minimum = 1, maximum = 10_000, example = 2)]
    pub quantity: u32,
    /// The price that the customer saw; refused when it is not the catalogue's. Leave it out to take the catalogue's.
    pub unit_price: Option<Money>,
}

/// An order to place.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    /// UUID chosen by the client: the same request again returns the same order. The header `Idempotency-Key` does the same; without either,
    /// every request is a new order.
    pub request_id: Option<String>,
    /// 1 to 50 lines with different SKUs.
    pub lines: Vec<NewLine>,
    /// Token of the payment method, for example `pm_ok`.
    #[schema(example = "pm_ok")]
    pub payment_method: String,
    /// Currency to pay in.
    #[schema(example = "EUR")]
    pub currency: String,
    /// Where to write to the customer.
    #[serde(default)]
    pub contact_email: String,
}

/// A line of an order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Line {
    /// What.
    pub sku: String,
    /// How many.
    pub quantity: u32,
    /// Price of one.
    pub unit_price: Option<Money>,
}

/// An order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Order {
    /// UUID.
    pub order_id: String,
    /// PENDING, CONFIRMED, REJECTED, REFUNDING or REFUNDED.
    #[schema(example = "CONFIRMED")]
    pub status: String,
    /// Its lines.
    pub lines: Vec<Line>,
    /// Sum over the lines.
    pub total: Option<Money>,
    /// Id of the saga that carries it out.
    pub saga_id: String,
    /// Why it was rejected, machine-readable.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rejection_reason: String,
    /// Why it was rejected, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rejection_message: String,
    /// A cancellation is under way.
    pub cancel_requested: bool,
    /// Id of the saga that refunds it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub refund_saga_id: String,
    /// When it was placed (RFC 3339).
    pub create_time: String,
    /// When it last changed (RFC 3339).
    pub update_time: String,
    /// Changes with every change of the order.
    pub etag: String,
}

/// An order with what the other services know of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OrderDetails {
    /// The order itself.
    #[serde(flatten)]
    pub order: Order,
    /// Its payment; `null` when there is none yet, or when `partial` names it.
    pub payment: Option<Payment>,
    /// Its stock; `null` when there is none yet, or when `partial` names it.
    pub reservation: Option<Reservation>,
    /// What the customer was told.
    pub notifications: Vec<Notification>,
    /// Parts that could not be had just now: any of `payment`, `reservation`, `notifications`. Empty when the answer is whole.
    pub partial: Vec<&'static str>,
}

/// A payment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Payment {
    /// AUTHORIZING, AUTHORIZED, CAPTURING, CAPTURED, DECLINED, VOIDED or REFUNDED.
    pub state: String,
    /// How much.
    pub amount: Option<Money>,
    /// Why it was declined.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub decline_reason: String,
}

/// A reservation of stock.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Reservation {
    /// HELD, COMMITTED, RELEASED or RETURNED.
    pub state: String,
}

/// A notification.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Notification {
    /// CONFIRMATION, REJECTION, REFUND or RECEIPT.
    pub kind: String,
    /// PENDING, SENT, RECORDED (there was no address) or FAILED (the mail server refused it for about a day).
    pub state: String,
    /// When it was recorded (RFC 3339).
    pub create_time: String,
}

/// A page of orders.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderPage {
    /// Newest first.
    pub orders: Vec<Order>,
    /// Token of the next page; empty on the last one.
    pub next_page_token: String,
}

/// Why an order is cancelled.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// In words: at most 500 characters.
    #[serde(default)]
    pub reason: String,
}

/// An item.
#[derive(Debug, Serialize, ToSchema)]
pub struct Item {
    /// What.
    pub sku: String,
    /// Its name.
    pub name: String,
    /// Free to be ordered.
    pub available: u64,
    /// Held by orders that are not confirmed yet.
    pub reserved: u64,
    /// Price of one.
    pub unit_price: Option<Money>,
}

/// A page of items.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemPage {
    /// By SKU.
    pub items: Vec<Item>,
    /// Token of the next page; empty on the last one.
    pub next_page_token: String,
}

/// Stock to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestockRequest {
    /// UUID chosen by the client: the same request again changes nothing.
    pub request_id: Option<String>,
    /// How many more.
    #[schema(minimum = 1)]
    pub quantity: u64,
    /// Name: required when the item is new.
    #[serde(default)]
    pub name: String,
    /// Price of one: required when the item is new.
    pub unit_price: Option<Money>,
}

/// A customer's page in one answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Dashboard {
    /// The customer.
    pub customer_id: String,
    /// The newest orders, each with its payment's state.
    pub recent_orders: Vec<DashboardOrder>,
    /// How many of the recent orders are in each status.
    pub counts: std::collections::BTreeMap<String, u32>,
    /// Sum of the recent orders that are CONFIRMED, per currency.
    pub spent: Vec<Money>,
    /// Newest messages to the customer.
    pub notifications: Vec<Notification>,
    /// Parts that could not be had just now: any of `payments`, `notifications`.
    pub partial: Vec<&'static str>,
}

/// An order on the dashboard.
#[derive(Debug, Serialize, ToSchema)]
pub struct DashboardOrder {
    /// The order.
    #[serde(flatten)]
    pub order: Order,
    /// State of its payment, if it is known.
    pub payment_state: Option<String>,
}

/// Which page of the orders.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Most entries. 0: 50; above 500 counts as 500.
    #[serde(default)]
    pub page_size: i32,
    /// `next_page_token` of the page before.
    #[serde(default)]
    pub page_token: String,
    /// Wait until the read side has reached this position (header `sagamesh-position` of a write).
    #[serde(default)]
    pub min_position: u64,
    /// Only orders in this status.
    #[serde(default)]
    pub status: Option<String>,
}

/// Which page of the items.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ItemsQuery {
    /// Most entries. 0: 50; above 500 counts as 500.
    #[serde(default)]
    pub page_size: i32,
    /// `next_page_token` of the page before.
    #[serde(default)]
    pub page_token: String,
}

/// From when to read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ReadQuery {
    /// Wait until the read side has reached this position (header `sagamesh-position` of a write).
    #[serde(default)]
    pub min_position: u64,
}

/// The name of an enum value without its prefix: `ORDER_STATUS_PENDING` -> `PENDING`.
fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

fn rfc3339(timestamp: Option<prost_types::Timestamp>) -> String {
    timestamp
        .map(|timestamp| timestamp.to_string())
        .unwrap_or_default()
}

impl From<shop::Money> for Money {
    fn from(money: shop::Money) -> Self {
        Self {
            minor_units: money.minor_units,
            currency: money.currency,
        }
    }
}

impl From<Money> for shop::Money {
    fn from(money: Money) -> Self {
        Self {
            minor_units: money.minor_units,
            currency: money.currency,
        }
    }
}

impl From<orders::Order> for Order {
    fn from(order: orders::Order) -> Self {
        let status = short(order.status().as_str_name(), "ORDER_STATUS_");
        let line = |line: orders::OrderLine| Line {
            sku: line.sku,
            quantity: line.quantity,
            unit_price: line.unit_price.map(Money::from),
        };
        Self {
            order_id: order.order_id,
            status,
            lines: order.lines.into_iter().map(line).collect(),
            total: order.total.map(Money::from),
            saga_id: order.saga_id,
            rejection_reason: order.rejection_reason,
            rejection_message: order.rejection_message,
            cancel_requested: order.cancel_requested,
            refund_saga_id: order.refund_saga_id,
            create_time: rfc3339(order.create_time),
            update_time: rfc3339(order.update_time),
            etag: order.etag,
        }
    }
}

impl From<payments::Payment> for Payment {
    fn from(payment: payments::Payment) -> Self {
        let state = short(payment.state().as_str_name(), "PAYMENT_STATE_");
        Self {
            state,
            amount: payment.amount.map(Money::from),
            decline_reason: payment.decline_reason,
        }
    }
}

impl From<inventory::Reservation> for Reservation {
    fn from(reservation: inventory::Reservation) -> Self {
        Self {
            state: short(reservation.state().as_str_name(), "RESERVATION_STATE_"),
        }
    }
}

impl From<notifications::Notification> for Notification {
    fn from(notification: notifications::Notification) -> Self {
        Self {
            kind: short(notification.kind().as_str_name(), "NOTIFICATION_KIND_"),
            state: short(notification.state().as_str_name(), "NOTIFICATION_STATE_"),
            create_time: rfc3339(notification.create_time),
        }
    }
}

impl From<inventory::Item> for Item {
    fn from(item: inventory::Item) -> Self {
        Self {
            sku: item.sku,
            name: item.name,
            available: item.available,
            reserved: item.reserved,
            unit_price: item.unit_price.map(Money::from),
        }
    }
}
