//! The read side: one row a notification.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use ledger::sql::{Dialect, Tx, Value};
use ledger::{BoxFuture, Projection, Recorded, params};
use prost::Message as _;
use prost_types::Timestamp;
use sagamesh_api::shop::notifications::v1::{Notification, NotificationState};

use crate::decider::decode;
use crate::domain::{NotificationEvent, NotificationRecord};

/// Name of the projection.
pub const NOTIFICATIONS: &str = "notifications";

const SCHEMA: &[&str] = &[
    "CREATE TABLE notifications (
        notification_id TEXT PRIMARY KEY,
        order_id TEXT NOT NULL,
        customer_id TEXT NOT NULL,
        state BIGINT NOT NULL,
        created BIGINT NOT NULL,
        data BLOB NOT NULL
    )",
    "CREATE INDEX notifications_by_time ON notifications (created, notification_id)",
    "CREATE INDEX notifications_by_order ON notifications (order_id, created, notification_id)",
    "CREATE INDEX notifications_by_customer ON notifications (customer_id, created, notification_id)",
    // 1: pending.
    "CREATE INDEX notifications_owed ON notifications (notification_id) WHERE state = 1",
];

/// Keeps the table `notifications`: each as it is shown, by time, order and customer.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotificationsProjection;

impl Projection for NotificationsProjection {
    fn name(&self) -> &'static str {
        NOTIFICATIONS
    }

    fn version(&self) -> u32 {
        2
    }

    fn schema(&self, _dialect: Dialect) -> &'static [&'static str] {
        SCHEMA
    }

    fn tables(&self) -> &'static [&'static str] {
        &["notifications"]
    }

    fn apply<'a>(
        &'a mut self,
        tx: &'a mut Tx,
        events: &'a [Recorded],
    ) -> BoxFuture<'a, Result<(), ledger::Error>> {
        async move {
            let mut changed: BTreeMap<&str, Notification> = BTreeMap::new();
            for recorded in events.iter().filter(|recorded| recorded.stream.kind() == "notification") {
                let id = recorded.stream.key();
                let time = Some(chassis::timestamp::from_millis(recorded.commit_millis));
                let event = decode(&recorded.type_name, &recorded.data)?;
                let mut shown = match &event {
                    NotificationEvent::Recorded(_) => {
                        let mut record = NotificationRecord::default();
                        record.evolve(&event);
                        record.describe(id)
                    }
                    _ => match changed.remove(id) {
                        Some(notification) => Some(notification),
                        None => stored(tx, id).await?,
                    },
                };
                if let Some(notification) = &mut shown {
                    show(notification, &event, time);
                }
                changed.extend(shown.map(|notification| (id, notification)));
            }
            tx.execute_rows(
                "INSERT INTO notifications (notification_id, order_id, customer_id, state, created, data) VALUES",
                changed.values().map(row).collect(),
                "ON CONFLICT (notification_id) DO UPDATE SET state = excluded.state, data = excluded.data",
            )
            .await?;
            Ok(())
        }
        .boxed()
    }
}

/// Makes a notification look as after this event.
fn show(notification: &mut Notification, event: &NotificationEvent, time: Option<Timestamp>) {
    match event {
        NotificationEvent::Recorded(_) => notification.create_time = time,
        NotificationEvent::Sent(_) => {
            notification.set_state(NotificationState::Sent);
            notification.send_time = time;
            notification.failure.clear();
        }
        NotificationEvent::Failed(failed) => {
            notification.set_state(NotificationState::Failed);
            notification.failure.clone_from(&failed.reason);
        }
    }
}

async fn stored(tx: &mut Tx, id: &str) -> Result<Option<Notification>, ledger::Error> {
    let sql = "SELECT data FROM notifications WHERE notification_id = $1";
    let row = tx.fetch_optional(sql, params![id]).await?;
    row.map(|row| notification_from(&row.get::<Vec<u8>>("data")?))
        .transpose()
}

/// A notification from its row.
pub(crate) fn notification_from(data: &[u8]) -> Result<Notification, ledger::Error> {
    Notification::decode(data)
        .map_err(|error| ledger::Error::decode("shop.notifications.v1.Notification", error))
}

fn row(notification: &Notification) -> Vec<Value> {
    vec![
        Value::from(&notification.notification_id),
        Value::from(&notification.order_id),
        Value::from(&notification.customer_id),
        Value::from(notification.state),
        Value::from(
            notification
                .create_time
                .as_ref()
                .map_or(0, chassis::timestamp::to_millis),
        ),
        Value::from(notification.encode_to_vec()),
    ]
}
