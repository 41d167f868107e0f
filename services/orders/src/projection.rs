//! The read side: one row an order, fed from the log.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use ledger::sql::{Dialect, Dynamic, Tx, Value};
use ledger::{BoxFuture, Projection, Recorded};
use prost::Message as _;
use sagamesh_api::shop::orders::v1::Order;

use crate::decider::decode;
use crate::domain::{OrderEvent, apply};

/// Name of the projection.
pub const ORDERS: &str = "orders";

const SCHEMA: &[&str] = &[
    "CREATE TABLE orders (
        order_id TEXT PRIMARY KEY,
        customer_id TEXT NOT NULL,
        status BIGINT NOT NULL,
        updated BIGINT NOT NULL,
        version BIGINT NOT NULL,
        data BLOB NOT NULL
    )",
    "CREATE INDEX orders_by_customer ON orders (customer_id, order_id)",
    "CREATE INDEX orders_by_status ON orders (status, order_id)",
];

/// Keeps the table `orders`: each order as it is shown, by id (time-ordered), customer and status.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrdersProjection;

impl Projection for OrdersProjection {
    fn name(&self) -> &'static str {
        ORDERS
    }

    fn version(&self) -> u32 {
        1
    }

    fn schema(&self, _dialect: Dialect) -> &'static [&'static str] {
        SCHEMA
    }

    fn tables(&self) -> &'static [&'static str] {
        &["orders"]
    }

    fn apply<'a>(
        &'a mut self,
        tx: &'a mut Tx,
        events: &'a [Recorded],
    ) -> BoxFuture<'a, Result<(), ledger::Error>> {
        async move {
            let mut orders = existing(tx, events).await?;
            for recorded in events.iter().filter(|recorded| recorded.stream.kind() == "order") {
                let event = decode(&recorded.type_name, &recorded.data)?;
                let order = orders.entry(recorded.stream.key().to_owned()).or_default();
                show(order, &event, recorded.version, recorded.commit_millis);
            }
            let rows = orders.into_values().flatten().map(|order| row(&order)).collect();
            tx.execute_rows(
                "INSERT INTO orders (order_id, customer_id, status, updated, version, data) VALUES",
                rows,
                "ON CONFLICT (order_id) DO UPDATE SET status = excluded.status, updated = excluded.updated, \
                 version = excluded.version, data = excluded.data",
            )
            .await?;
            Ok(())
        }
        .boxed()
    }
}

/// Folds a recorded event into the order as it is shown, with its times and etag.
pub(crate) fn show(
    order: &mut Option<Box<Order>>,
    event: &OrderEvent,
    version: u64,
    commit_millis: i64,
) {
    apply(order, event);
    if let Some(order) = order {
        let time = chassis::timestamp::from_millis(commit_millis);
        if order.create_time.is_none() {
            order.create_time = Some(time);
        }
        order.update_time = Some(time);
        order.etag = etag(version);
    }
}

/// The etag of a version of an order.
pub(crate) fn etag(version: u64) -> String {
    format!("v{version}")
}

/// The version that an etag names.
pub(crate) fn version_of(order: &Order) -> u64 {
    order
        .etag
        .strip_prefix('v')
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

/// The orders on record that these events change. A new order is not looked up.
async fn existing(
    tx: &mut Tx,
    events: &[Recorded],
) -> Result<BTreeMap<String, Option<Box<Order>>>, ledger::Error> {
    let mut orders = BTreeMap::new();
    for recorded in events
        .iter()
        .filter(|recorded| recorded.stream.kind() == "order" && recorded.version > 1)
    {
        orders.insert(recorded.stream.key().to_owned(), None);
    }
    for recorded in events.iter().filter(|recorded| recorded.version == 1) {
        orders.remove(recorded.stream.key());
    }
    let ids: Vec<String> = orders.keys().cloned().collect();
    for ids in ids.chunks(100) {
        let places: Vec<String> = (1..=ids.len()).map(|place| format!("${place}")).collect();
        let sql = format!(
            "SELECT order_id, data FROM orders WHERE order_id IN ({})",
            places.join(", ")
        );
        for row in tx
            .fetch_all(Dynamic(sql), ids.iter().map(Value::from).collect())
            .await?
        {
            orders.insert(
                row.get("order_id")?,
                Some(Box::new(order_from(&row.get::<Vec<u8>>("data")?)?)),
            );
        }
    }
    Ok(orders)
}

/// An order from its row.
pub(crate) fn order_from(data: &[u8]) -> Result<Order, ledger::Error> {
    Order::decode(data).map_err(|error| ledger::Error::decode("shop.orders.v1.Order", error))
}

fn row(order: &Order) -> Vec<Value> {
    vec![
        Value::from(&order.order_id),
        Value::from(&order.customer_id),
        Value::from(order.status),
        Value::from(
            order
                .update_time
                .as_ref()
                .map_or(0, chassis::timestamp::to_millis),
        ),
        Value::from(version_of(order)),
        Value::from(order.encode_to_vec()),
    ]
}
