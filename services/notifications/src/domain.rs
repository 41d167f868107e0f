//! What customers are told, and when it is owed. Pure: no clock, no randomness, no IO.
//!
//! A notification has a fixed id: the order's id and the kind (`0198....receipt`). So whatever asks for it twice, a repeated saga step, a
//! feed that is read again, finds it recorded. Its id is also the Message-ID of the mail, so that a reader can tell a mail that was sent
//! twice from a new one.
//!
//! ```text
//!              record (with a recipient)            sent
//!  (nothing) --------------------------> PENDING -----------> SENT
//!      |                                    |                   ^
//!      |                                    | failed            | sent
//!      |                                    +--------------> FAILED
//!      |         record (without one)
//!      +-------------------------------> RECORDED
//! ```
//!
//! A process may hand over what another one has just given up: then it was sent.

mod feed;
#[cfg(test)]
mod tests;
mod text;

pub use feed::{OrderNews, needs, tell};
pub use text::{Line, Total, compose};

use sagamesh_api::shop::notifications::v1::{
    Notification, NotificationFailed, NotificationKind, NotificationRecorded, NotificationSent,
    NotificationState,
};

/// Something that happened to a notification: the messages of `shop/notifications/v1/events.proto`.
#[derive(Clone, Debug, PartialEq)]
pub enum NotificationEvent {
    /// It is on record, and owed when it has a recipient.
    Recorded(NotificationRecorded),
    /// It was handed over.
    Sent(NotificationSent),
    /// It was refused for good, and is not tried again.
    Failed(NotificationFailed),
}

/// A notification as its events tell it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NotificationRecord {
    /// What was recorded; `None` before.
    pub recorded: Option<Box<NotificationRecorded>>,
    /// It was handed over at least once.
    pub sent: bool,
    /// Why it was given up, if it was.
    pub failure: Option<String>,
}

impl NotificationRecord {
    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> NotificationState {
        match &self.recorded {
            None => NotificationState::Unspecified,
            Some(recorded) if recorded.recipient.is_empty() => NotificationState::Recorded,
            Some(_) if self.sent => NotificationState::Sent,
            Some(_) if self.failure.is_some() => NotificationState::Failed,
            Some(_) => NotificationState::Pending,
        }
    }

    /// Whether it still has to be handed over.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        self.state() == NotificationState::Pending
    }

    /// Puts it on record. Nothing when it is.
    #[must_use]
    pub fn record(&self, recorded: &NotificationRecorded) -> Vec<NotificationEvent> {
        match self.recorded {
            None => vec![NotificationEvent::Recorded(recorded.clone())],
            Some(_) => Vec::new(),
        }
    }

    /// It was handed over. Nothing when that is known, or when there was nothing to hand over.
    #[must_use]
    pub fn sent(&self) -> Vec<NotificationEvent> {
        match self.state() {
            NotificationState::Pending | NotificationState::Failed => {
                vec![NotificationEvent::Sent(NotificationSent {})]
            }
            _ => Vec::new(),
        }
    }

    /// It was refused for good, for this reason. Nothing when it is not owed.
    #[must_use]
    pub fn failed(&self, reason: &str) -> Vec<NotificationEvent> {
        if self.is_owed() {
            let reason = reason.to_owned();
            vec![NotificationEvent::Failed(NotificationFailed { reason })]
        } else {
            Vec::new()
        }
    }

    /// Folds one event in.
    pub fn evolve(&mut self, event: &NotificationEvent) {
        match event {
            NotificationEvent::Recorded(recorded) => {
                self.recorded = Some(Box::new(recorded.clone()))
            }
            NotificationEvent::Sent(_) => self.sent = true,
            NotificationEvent::Failed(failed) => self.failure = Some(failed.reason.clone()),
        }
    }

    /// As it is shown, without its times; `None` before it was recorded.
    #[must_use]
    pub fn describe(&self, notification_id: &str) -> Option<Notification> {
        let recorded = self.recorded.as_ref()?;
        Some(Notification {
            notification_id: notification_id.to_owned(),
            order_id: recorded.order_id.clone(),
            customer_id: recorded.customer_id.clone(),
            kind: recorded.kind,
            state: self.state().into(),
            create_time: None,
            send_time: None,
            failure: String::new(),
        })
    }
}

/// The id of the notification of this kind about this order.
#[must_use]
pub fn notification_id(order_id: &str, kind: NotificationKind) -> String {
    let word = match kind {
        NotificationKind::Unspecified => "note",
        NotificationKind::Confirmation => "confirmation",
        NotificationKind::Rejection => "rejection",
        NotificationKind::Refund => "refund",
        NotificationKind::Receipt => "receipt",
    };
    format!("{order_id}.{word}")
}
