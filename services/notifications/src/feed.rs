//! Follows the orders' feed. How far it was read is stored in the same commit as what was recorded for it.

use chassis::trace::{self, KeyValue};
use futures_util::FutureExt as _;
use ledger::{BoxFuture, Cursor, Handler, Ledger, Received, Recorded};
use sagamesh_api::shop::orders::v1::{OrderPlaced, OrderRejected};
use tracing::Span;

use crate::decider::{Command, Notifications};
use crate::domain::OrderNews;
use crate::mail::recipient;

/// Name of the consumer, on both sides.
pub(crate) const CONSUMER: &str = "notifications";
/// What it follows, in spans.
const FEED: &str = "orders.feed";
/// Without any news the position is stored after so many events: reading those again costs less than a commit for each message.
const QUIET_EVENTS: u64 = 1_000;

/// Records what the orders' events call for.
pub(crate) struct Follower {
    ledger: Ledger<Notifications>,
    stored: u64,
}

impl Follower {
    pub(crate) fn new(ledger: Ledger<Notifications>) -> Self {
        Self { ledger, stored: 0 }
    }

    async fn follow(&mut self, received: Received) -> Result<(), ledger::Error> {
        let (mut news, mut spans) = (Vec::new(), Vec::new());
        for recorded in &received.events {
            match read(recorded) {
                Ok(Some(mut found)) => {
                    if trace::exporting() {
                        spans.push(process(recorded, &mut found));
                    }
                    news.push(found);
                }
                Ok(None) => {}
                // Everything behind it would wait for ever; the order itself is not affected.
                Err(error) => {
                    tracing::error!(%error, position = recorded.position, "an event of the orders' feed is left out")
                }
            }
        }
        if news.is_empty() && received.position < self.stored + QUIET_EVENTS {
            return Ok(());
        }
        let position = received.position;
        let cursor = Cursor {
            consumer: CONSUMER.to_owned(),
            log_id: received.log_id,
            position,
        };
        let recorded = self.ledger.execute(Command::Follow { news, cursor }).await;
        if recorded.is_err() {
            for span in &spans {
                trace::failed(span, "storage");
            }
        }
        drop(spans);
        recorded.map_err(|error| {
            ledger::Error::Timeout(format!("recording the orders' news: {error}"))
        })?;
        self.stored = position;
        Ok(())
    }
}

impl Handler for Follower {
    fn position(&mut self) -> BoxFuture<'_, Result<Option<(String, u64)>, ledger::Error>> {
        async move {
            let cursor = self.ledger.cursor(CONSUMER).await?;
            self.stored = cursor.as_ref().map_or(0, |cursor| cursor.position);
            // A forgotten log has no id.
            Ok(cursor
                .filter(|cursor| !cursor.log_id.is_empty())
                .map(|cursor| (cursor.log_id, cursor.position)))
        }
        .boxed()
    }

    fn handle(&mut self, received: Received) -> BoxFuture<'_, Result<(), ledger::Error>> {
        self.follow(received).boxed()
    }

    /// Orders was restored from a backup, or begun anew: its log is read from the start. What is on record stays, and is not recorded twice.
    fn log_replaced(&mut self) -> BoxFuture<'_, Result<(), ledger::Error>> {
        async move {
            tracing::warn!(
                "the orders' log was replaced by another one: it is read from its start"
            );
            let cursor = Cursor {
                consumer: CONSUMER.to_owned(),
                log_id: String::new(),
                position: 0,
            };
            self.ledger
                .execute(Command::Follow {
                    news: Vec::new(),
                    cursor,
                })
                .await
                .map_err(|error| {
                    ledger::Error::Timeout(format!("forgetting the position: {error}"))
                })?;
            Ok(())
        }
        .boxed()
    }
}

/// The span in which an event is processed. It continues the trace that the event brought, and what is recorded for the event
/// continues the span.
fn process(recorded: &Recorded, news: &mut OrderNews) -> Span {
    let traceparent = match news {
        OrderNews::Placed(placed) => &mut placed.traceparent,
        OrderNews::Rejected { rejected, .. } => &mut rejected.traceparent,
    };
    let span = tracing::info_span!(parent: None, "feed_event", "otel.kind" = "consumer");
    trace::set_parent(&span, traceparent);
    let attributes = || {
        [
            KeyValue::new("messaging.system", "sagamesh"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.destination.name", FEED),
            KeyValue::new("messaging.consumer.group.name", CONSUMER),
            KeyValue::new("messaging.message.id", recorded.position.to_string()),
            KeyValue::new("ledger.event.type", recorded.type_name.to_string()),
        ]
    };
    trace::describe(&span, || format!("process {FEED}"), attributes);
    if let Some(own) = trace::within(&span) {
        *traceparent = own;
    }
    span
}

/// The news in an event, if it is one that customers are told about.
fn read(recorded: &Recorded) -> Result<Option<OrderNews>, ledger::Error> {
    Ok(match &*recorded.type_name {
        "shop.orders.v1.OrderPlaced" => {
            let mut placed: OrderPlaced = recorded.message()?;
            placed.contact_email = recipient(&placed.contact_email);
            Some(OrderNews::Placed(placed))
        }
        "shop.orders.v1.OrderRejected" => {
            let rejected: OrderRejected = recorded.message()?;
            Some(OrderNews::Rejected {
                order_id: recorded.stream.key().to_owned(),
                rejected,
            })
        }
        _ => None,
    })
}
