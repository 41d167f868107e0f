//! WatchOrder: one follower of the log hands each order's events to those who watch it. It follows the log, not this process's own writes, so
//! that it sees what other replicas write.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use ledger::{Ledger, Recorded, Subscription};
use sagamesh_api::shop::orders::v1::{Order, OrderStatus, WatchOrderResponse};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::decider::{Orders, decode};
use crate::domain::OrderEvent;
use crate::errors::ERRORS;
use crate::projection::{show, version_of};

/// What WatchOrder answers with.
pub(crate) type OrderStream =
    Pin<Box<dyn Stream<Item = Result<WatchOrderResponse, Status>> + Send>>;

/// A heartbeat is sent when nothing else was for so long.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Events taken from the log at once.
const BATCH: usize = 512;

/// A change of an order.
struct Change {
    event: OrderEvent,
    version: u64,
    commit_millis: i64,
}

#[derive(Default)]
struct Watchers {
    /// Everything up to here was handed out.
    position: u64,
    last_id: u64,
    /// An order has few events, so the queues are bounded by their orders.
    by_order: BTreeMap<String, BTreeMap<u64, mpsc::UnboundedSender<Change>>>,
}

/// Those who watch. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<Watchers>>);

impl Hub {
    /// A hub that hands out what comes after the log's head. Give the subscription to [`Hub::run`].
    pub(crate) fn new(ledger: &Ledger<Orders>) -> Result<(Self, Subscription), ledger::Error> {
        let hub = Self::default();
        let position = ledger.head();
        hub.lock().position = position;
        Ok((hub, ledger.subscribe(position)?))
    }

    /// The task: follows the log until `token`.
    pub(crate) async fn run(self, mut subscription: Subscription, token: CancellationToken) {
        loop {
            let events = tokio::select! {
                biased;
                () = token.cancelled() => return,
                events = subscription.next(BATCH) => events,
            };
            match events {
                Ok(events) => self.hand_out(&events),
                Err(ledger::Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "the log could not be read for those who watch orders, trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// Begins to watch an order.
    pub(crate) fn watch(&self, order_id: &str) -> Watch {
        let order_id = order_id.to_ascii_lowercase();
        let (sender, changes) = mpsc::unbounded_channel();
        let mut watchers = self.lock();
        watchers.last_id += 1;
        let (id, position) = (watchers.last_id, watchers.position);
        watchers
            .by_order
            .entry(order_id.clone())
            .or_default()
            .insert(id, sender);
        drop(watchers);
        Watch {
            hub: self.clone(),
            order_id,
            id,
            position,
            changes,
        }
    }

    fn hand_out(&self, events: &[Recorded]) {
        let Some(last) = events.last() else { return };
        let mut watchers = self.lock();
        watchers.position = last.position;
        for recorded in events {
            let Some(order) = watchers.by_order.get(recorded.stream.key()) else {
                continue;
            };
            for sender in order.values() {
                match decode(&recorded.type_name, &recorded.data) {
                    // Who hung up removes itself.
                    Ok(event) => drop(sender.send(Change {
                        event,
                        version: recorded.version,
                        commit_millis: recorded.commit_millis,
                    })),
                    Err(error) => tracing::error!(%error, "an event of an order cannot be shown"),
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watchers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who watches an order.
pub(crate) struct Watch {
    hub: Hub,
    order_id: String,
    id: u64,
    position: u64,
    changes: mpsc::UnboundedReceiver<Change>,
}

impl Watch {
    /// Every change after this position of the log is handed out. An order that was read there, or later, misses none.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The order as it was read, then every change, until it ends.
    pub(crate) fn stream(self, order: Order) -> OrderStream {
        let version = version_of(&order);
        let start = State {
            watch: self,
            order: Box::new(order),
            version,
            first: true,
            over: false,
        };
        Box::pin(futures_util::stream::unfold(
            start,
            |mut state| async move {
                let order = state.next().await?;
                let response = order
                    .map(|order| WatchOrderResponse { order })
                    .map_err(Status::from);
                state.over |= response.is_err();
                Some((response, state))
            },
        ))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.hub.lock();
        if let Some(order) = watchers.by_order.get_mut(&self.order_id) {
            order.remove(&self.id);
            if order.is_empty() {
                watchers.by_order.remove(&self.order_id);
            }
        }
    }
}

struct State {
    watch: Watch,
    order: Box<Order>,
    version: u64,
    first: bool,
    over: bool,
}

impl State {
    /// The next order to send, a heartbeat (`None` inside), or the end.
    async fn next(&mut self) -> Option<Result<Option<Order>, chassis::Problem>> {
        if self.over {
            return None;
        }
        if std::mem::take(&mut self.first) {
            self.over = self.ended() && self.watch.changes.is_empty();
            return Some(Ok(Some((*self.order).clone())));
        }
        loop {
            match tokio::time::timeout(HEARTBEAT, self.watch.changes.recv()).await {
                Err(_) => return Some(Ok(None)),
                Ok(None) => {
                    return Some(Err(
                        ERRORS.storage(true, &"nobody hands out changes any more")
                    ));
                }
                // What was read already.
                Ok(Some(change)) if change.version <= self.version => {
                    if self.ended() && self.watch.changes.is_empty() {
                        return None;
                    }
                }
                Ok(Some(change)) => {
                    let mut order = Some(std::mem::take(&mut self.order));
                    show(
                        &mut order,
                        &change.event,
                        change.version,
                        change.commit_millis,
                    );
                    self.order = order.unwrap_or_default();
                    self.version = change.version;
                    // A confirmation and the refund that follows it may come in one commit.
                    self.over = self.ended() && self.watch.changes.is_empty();
                    return Some(Ok(Some((*self.order).clone())));
                }
            }
        }
    }

    fn ended(&self) -> bool {
        match self.order.status() {
            OrderStatus::Confirmed | OrderStatus::Rejected | OrderStatus::Refunded => true,
            OrderStatus::Unspecified | OrderStatus::Pending | OrderStatus::Refunding => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use ledger::Decider as _;
    use sagamesh_api::shop::orders::v1::{
        CancelRequested, OrderConfirmed, OrderLocked, OrderPlaced, OrderRefunded,
    };

    use super::*;
    use crate::decider::stream;

    const ID: &str = "0198c5f0-0000-7000-8000-000000000001";

    fn recorded(position: u64, version: u64, event: &OrderEvent) -> Recorded {
        let mut data = Vec::new();
        let type_name = Orders.encode(event, &mut data);
        Recorded {
            position,
            stream: stream(ID),
            version,
            type_name: type_name.into(),
            data: data.into(),
            commit_millis: 1_000,
        }
    }

    fn history() -> Vec<Recorded> {
        let saga_id = ID.to_owned();
        let events = [
            OrderEvent::Placed(OrderPlaced {
                order_id: ID.to_owned(),
                ..OrderPlaced::default()
            }),
            OrderEvent::Locked(OrderLocked {
                saga_id: saga_id.clone(),
            }),
            OrderEvent::Confirmed(OrderConfirmed {
                saga_id: saga_id.clone(),
            }),
            OrderEvent::CancelRequested(CancelRequested {
                refund: true,
                ..CancelRequested::default()
            }),
            OrderEvent::Refunded(OrderRefunded { saga_id }),
        ];
        (1..)
            .zip(&events)
            .map(|(at, event)| recorded(at + 10, at, event))
            .collect()
    }

    /// The order as it is after so many events.
    fn order(events: &[Recorded]) -> Order {
        let mut order = None;
        for event in events {
            show(
                &mut order,
                &decode(&event.type_name, &event.data).expect("ours"),
                event.version,
                event.commit_millis,
            );
        }
        *order.expect("placed")
    }

    async fn statuses(stream: OrderStream) -> Vec<(OrderStatus, String)> {
        let orders = stream.filter_map(|response| async { response.expect("open").order });
        orders
            .map(|order| (order.status(), order.etag))
            .collect()
            .await
    }

    /// Wherever reading falls among the events that are handed out, each change is told once.
    #[tokio::test]
    async fn no_change_is_missed_or_told_twice_wherever_it_is_read() {
        use OrderStatus::{Confirmed, Pending, Refunded, Refunding};
        let history = history();
        let told = [
            (Pending, "v1"),
            (Pending, "v2"),
            (Confirmed, "v3"),
            (Refunding, "v4"),
            (Refunded, "v5"),
        ];
        for read in 1..=history.len() {
            let hub = Hub::default();
            let watch = hub.watch(ID);
            // All of it in one go: a confirmation and its refund are not the end.
            hub.hand_out(&history);
            let seen = statuses(watch.stream(order(&history[..read]))).await;
            let expected: Vec<_> = told[read - 1..]
                .iter()
                .map(|(status, etag)| (*status, (*etag).to_owned()))
                .collect();
            assert_eq!(seen, expected, "read after {read}");
            assert!(hub.lock().by_order.is_empty(), "who left is forgotten");
            assert_eq!(hub.watch(ID).position(), 15);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_come_while_nothing_changes() {
        let (hub, history) = (Hub::default(), history());
        let mut stream = hub.watch(ID).stream(order(&history[..1]));
        assert!(
            stream
                .next()
                .await
                .expect("open")
                .expect("well")
                .order
                .is_some()
        );
        for _ in 0..3 {
            let before = tokio::time::Instant::now();
            assert_eq!(
                stream.next().await.expect("open").expect("well").order,
                None
            );
            assert!(before.elapsed() <= Duration::from_secs(10));
        }
        hub.hand_out(&history[1..3]);
        assert!(
            stream
                .next()
                .await
                .expect("open")
                .expect("well")
                .order
                .is_some()
        );
        assert_eq!(
            stream
                .next()
                .await
                .expect("open")
                .expect("well")
                .order
                .expect("the order")
                .status(),
            OrderStatus::Confirmed
        );
        assert!(stream.next().await.is_none());
    }
}
