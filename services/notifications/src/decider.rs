//! The notifications on the ledger.

use std::collections::BTreeMap;

use ledger::{Cursor, Decision, StreamId, View};
use participant::Outcome;
use participant::barrier::{Key, inbox};
use prost::Message as _;
use sagamesh_api::shop::notifications::v1::{
    NotificationFailed, NotificationRecorded, NotificationSent,
};

use crate::domain::{
    NotificationEvent, NotificationRecord, OrderNews, needs, notification_id, tell,
};

/// What is asked of notifications.
#[derive(Clone, Debug)]
pub enum Command {
    /// Handles a message of the orders' feed: records what it calls for, and how far the feed was read, in one commit.
    Follow {
        /// The news, in order.
        news: Vec<OrderNews>,
        /// Up to where.
        cursor: Cursor,
    },
    /// A step of a saga: records this notification.
    Step {
        /// The barrier's key.
        key: Key,
        /// What to record.
        note: Box<NotificationRecorded>,
    },
    /// The notification of this id was handed over.
    Sent(String),
    /// The notification of this id was refused for good and is given up.
    Failed {
        /// Which.
        id: String,
        /// Why. Names nobody.
        reason: String,
    },
}

/// The stream of a notification.
#[must_use]
pub fn stream(notification_id: &str) -> StreamId {
    StreamId::of("notification", notification_id)
}

/// Notifications as a decider.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notifications;

impl ledger::Decider for Notifications {
    type State = NotificationRecord;
    type Event = NotificationEvent;
    type Command = Command;
    /// The outcome of a step.
    type Reply = Option<Outcome>;
    /// Nothing is refused but by outcomes.
    type Rejection = std::convert::Infallible;

    fn streams(&self, command: &Command) -> Vec<StreamId> {
        match command {
            Command::Follow { news, .. } => {
                let mut streams: Vec<_> =
                    news.iter().flat_map(needs).map(|id| stream(&id)).collect();
                streams.sort();
                streams.dedup();
                streams
            }
            Command::Step { note, .. } => {
                vec![stream(&notification_id(&note.order_id, note.kind()))]
            }
            Command::Sent(id) | Command::Failed { id, .. } => vec![stream(id)],
        }
    }

    fn inbox_keys(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Step { key, .. } => inbox::keys(key).into(),
            Command::Follow { .. } | Command::Sent(_) | Command::Failed { .. } => Vec::new(),
        }
    }

    fn initial(&self, _stream: &StreamId) -> NotificationRecord {
        NotificationRecord::default()
    }

    fn evolve(&self, state: &mut NotificationRecord, event: &NotificationEvent) {
        state.evolve(event);
    }

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Command,
        now: i64,
    ) -> Result<Decision<NotificationEvent, Option<Outcome>>, std::convert::Infallible> {
        Ok(match command {
            Command::Follow { news, cursor } => follow(view, news).cursor(cursor.clone()),
            Command::Step { key, note } => step(view, key, note, now),
            Command::Sent(id) => {
                let stream = stream(id);
                Decision::new(None).events(&stream, view.state(&stream).sent())
            }
            Command::Failed { id, reason } => {
                let stream = stream(id);
                Decision::new(None).events(&stream, view.state(&stream).failed(reason))
            }
        })
    }

    fn encode(&self, event: &NotificationEvent, buffer: &mut Vec<u8>) -> &'static str {
        match event {
            NotificationEvent::Recorded(message) => {
                message.encode_raw(buffer);
                "shop.notifications.v1.NotificationRecorded"
            }
            NotificationEvent::Sent(message) => {
                message.encode_raw(buffer);
                "shop.notifications.v1.NotificationSent"
            }
            NotificationEvent::Failed(message) => {
                message.encode_raw(buffer);
                "shop.notifications.v1.NotificationFailed"
            }
        }
    }

    fn decode(&self, type_name: &str, data: &[u8]) -> Result<NotificationEvent, ledger::Error> {
        decode(type_name, data)
    }

    fn forget(&self, state: &NotificationRecord) -> bool {
        !state.is_owed()
    }
}

/// A stored event.
///
/// # Errors
/// If it is none of ours.
pub fn decode(type_name: &str, data: &[u8]) -> Result<NotificationEvent, ledger::Error> {
    let decoded = match type_name {
        "shop.notifications.v1.NotificationRecorded" => {
            NotificationRecorded::decode(data).map(NotificationEvent::Recorded)
        }
        "shop.notifications.v1.NotificationSent" => {
            NotificationSent::decode(data).map(NotificationEvent::Sent)
        }
        "shop.notifications.v1.NotificationFailed" => {
            NotificationFailed::decode(data).map(NotificationEvent::Failed)
        }
        _ => {
            return Err(ledger::Error::decode(
                type_name,
                "no event of a notification",
            ));
        }
    };
    decoded.map_err(|error| ledger::Error::decode(type_name, error))
}

/// What a message of the feed calls for. A later piece of news sees what an earlier one recorded.
fn follow(
    view: &View<'_, Notifications>,
    news: &[OrderNews],
) -> Decision<NotificationEvent, Option<Outcome>> {
    let mut decision = Decision::new(None);
    let mut states: BTreeMap<String, NotificationRecord> = BTreeMap::new();
    for news in news {
        let ids = needs(news);
        for id in &ids {
            states
                .entry(id.clone())
                .or_insert_with(|| view.state(&stream(id)).clone());
        }
        let Some(id) = ids.first() else { continue };
        // The receipt is the last one that it needs; its own, when it is the receipt.
        let receipt = ids
            .last()
            .and_then(|id| states.get(id))
            .cloned()
            .unwrap_or_default();
        let Some(state) = states.get_mut(id) else {
            continue;
        };
        for event in state.record(&tell(news, &receipt)) {
            state.evolve(&event);
            decision = decision.event(stream(id), event);
        }
    }
    decision
}

/// A step behind the barrier. It is done once the notification is on record: handing it over is owed from there on.
fn step(
    view: &View<'_, Notifications>,
    key: &Key,
    note: &NotificationRecorded,
    now: i64,
) -> Decision<NotificationEvent, Option<Outcome>> {
    let (outcome, rows, events) = match inbox::check(key, now, |row| view.inbox(row)) {
        Ok(inbox::Entry::Answer(outcome, rows)) => (outcome, rows, Vec::new()),
        Ok(inbox::Entry::Proceed) => {
            let state = view.state(&stream(&notification_id(&note.order_id, note.kind())));
            (
                Outcome::done(),
                inbox::record(key, &Outcome::done()),
                state.record(note),
            )
        }
        Err(error) => (
            Outcome::unknown("BARRIER_UNREADABLE", error.to_string()),
            Vec::new(),
            Vec::new(),
        ),
    };
    let stream = stream(&notification_id(&note.order_id, note.kind()));
    let mut decision = Decision::new(Some(outcome)).events(&stream, events);
    decision.inbox = rows;
    decision
}
