//! Hands over what is owed, at least once: a notification is marked as sent after the mailer took it, so that a crash in between sends it again,
//! with the same Message-ID.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chassis::Env;
use chassis::trace::{self, KeyValue};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use ledger::{Committed, Ledger};
use lettre::message::Mailbox;
use sagamesh_api::shop::notifications::v1::NotificationRecorded;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::backoff::Backoff;
use crate::decider::{Command, Notifications, stream};
use crate::domain::NotificationEvent;
use crate::mail::{self, MailError, Mailer};
use crate::projection::NOTIFICATIONS;
use crate::queries::Queries;

/// Mails that are handed over at the same time.
const AT_ONCE: usize = 16;
/// Notifications that are looked after at the same time: handed over, or waiting for their next try.
const ACTIVE: usize = 4_096;
/// How often what nobody looks after is searched for.
const SWEEP: Duration = Duration::from_secs(30);
/// Only older ones: the newer are under way in the process that recorded them.
const SWEEP_AGE_MILLIS: i64 = 60_000;
/// Notifications per query.
const PAGE: usize = 500;

/// A notification that is owed, with its text when that is at hand.
pub(crate) struct Note {
    id: String,
    recorded: Option<Box<NotificationRecorded>>,
}

/// Tells the task about commits.
pub(crate) struct Observer {
    notes: mpsc::UnboundedSender<Note>,
}

impl ledger::Observer<Notifications> for Observer {
    fn committed(&mut self, commits: &[Committed<'_, Notifications>]) {
        for commit in commits {
            if let NotificationEvent::Recorded(recorded) = commit.event
                && commit.state.is_owed()
            {
                let note = Note {
                    id: commit.stream.key().to_owned(),
                    recorded: Some(Box::new(recorded.clone())),
                };
                // The receiver is gone only when the process ends.
                let _ = self.notes.send(note);
            }
        }
    }
}

/// Where notes go, and where they come from.
pub(crate) fn channel() -> (Observer, mpsc::UnboundedReceiver<Note>) {
    let (notes, inbox) = mpsc::unbounded_channel();
    (Observer { notes }, inbox)
}

/// What the task needs.
pub(crate) struct Outbox {
    pub(crate) ledger: Ledger<Notifications>,
    pub(crate) queries: Queries,
    pub(crate) mailer: Arc<dyn Mailer>,
    pub(crate) from: Mailbox,
    pub(crate) env: Env,
    pub(crate) slots: Semaphore,
}

impl Outbox {
    pub(crate) fn slots() -> Semaphore {
        Semaphore::new(AT_ONCE)
    }
}

enum Done {
    Sent(String),
    Swept(Vec<String>),
}

/// The task: until `token`.
pub(crate) async fn run(
    outbox: Outbox,
    mut notes: mpsc::UnboundedReceiver<Note>,
    token: CancellationToken,
) {
    let outbox = Arc::new(outbox);
    let mut running: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
    let mut active: BTreeMap<String, ()> = BTreeMap::new();
    let mut waiting: VecDeque<Note> = VecDeque::new();
    running.push(first_sweep(Arc::clone(&outbox)).map(Done::Swept).boxed());
    loop {
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            note = notes.recv() => match note {
                Some(mut note) => {
                    if waiting.len() >= ACTIVE {
                        // It is read again when its turn comes.
                        note.recorded = None;
                    }
                    waiting.push_back(note);
                }
                None => return,
            },
            Some(done) = running.next() => match done {
                Done::Sent(id) => drop(active.remove(&id)),
                Done::Swept(found) => {
                    waiting.extend(found.into_iter().map(|id| Note { id, recorded: None }));
                    running.push(next_sweep(Arc::clone(&outbox)).map(Done::Swept).boxed());
                }
            },
        }
        while active.len() < ACTIVE {
            let Some(Note { id, recorded }) = waiting.pop_front() else {
                break;
            };
            if active.insert(id.clone(), ()).is_none() {
                running.push(
                    hand_over(Arc::clone(&outbox), id, recorded)
                        .map(Done::Sent)
                        .boxed(),
                );
            }
        }
        metrics::gauge!("notifications_owed").set((active.len() + waiting.len()) as f64);
    }
}

/// One notification, until it is handed over and marked so.
async fn hand_over(
    outbox: Arc<Outbox>,
    id: String,
    recorded: Option<Box<NotificationRecorded>>,
) -> String {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60));
    let mut lasting = Backoff::new(Duration::from_secs(60), Duration::from_secs(3_600));
    let mut recorded = recorded;
    let mut sent = false;
    loop {
        let wait = match outbox.step(&id, &mut recorded, &mut sent).await {
            Ok(()) => return id,
            Err(error) => {
                metrics::counter!("notifications_send_failures_total", "mailer" => outbox.mailer.kind()).increment(1);
                let wait = match error {
                    MailError::Passing(_) => backoff.next(&outbox.env),
                    MailError::Lasting(_) => lasting.next(&outbox.env),
                };
                tracing::warn!(notification_id = id, %error, ?wait, "a notification was not handed over, trying again");
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

impl Outbox {
    /// Goes as far as it can: reads the text, hands it over, marks it as sent.
    async fn step(
        &self,
        id: &str,
        recorded: &mut Option<Box<NotificationRecorded>>,
        sent: &mut bool,
    ) -> Result<(), MailError> {
        let passing = |error: &dyn std::fmt::Display| MailError::Passing(error.to_string());
        if recorded.is_none() {
            let (state, _) = self
                .ledger
                .load(&stream(id))
                .await
                .map_err(|error| passing(&error))?;
            if !state.is_owed() {
                return Ok(());
            }
            *recorded = state.recorded;
        }
        let Some(note) = recorded else { return Ok(()) };
        if !*sent {
            let mail = mail::write(id, note, &self.from, &self.env)?;
            // Waiting for the next try holds no slot.
            let _slot = self
                .slots
                .acquire()
                .await
                .map_err(|error| passing(&error))?;
            let span = self.span(id, &note.traceparent);
            let taken = self.mailer.send(&mail).instrument(span.clone()).await;
            if taken.is_err() {
                trace::failed(&span, "mailer");
            }
            drop(span);
            taken?;
            metrics::counter!("notifications_sent_total", "mailer" => self.mailer.kind())
                .increment(1);
            *sent = true;
        }
        match self.ledger.execute(Command::Sent(id.to_owned())).await {
            Ok(_) => Ok(()),
            Err(error) => Err(passing(&error)),
        }
    }
}

impl Outbox {
    /// The span of handing a notification over; it continues the trace of whatever asked for that.
    fn span(&self, id: &str, traceparent: &str) -> Span {
        if !trace::exporting() {
            return Span::none();
        }
        let span = tracing::info_span!(parent: None, "mail", "otel.kind" = "producer");
        trace::set_parent(&span, traceparent);
        let attributes = || {
            [
                KeyValue::new("messaging.system", self.mailer.kind()),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.operation.name", "send"),
                KeyValue::new("messaging.destination.name", "mail"),
                KeyValue::new("messaging.message.id", id.to_owned()),
            ]
        };
        trace::describe(&span, || "send mail".to_owned(), attributes);
        span
    }
}

/// What was owed when the process began.
async fn first_sweep(outbox: Arc<Outbox>) -> Vec<String> {
    let head = outbox.ledger.head();
    if let Err(error) = outbox
        .ledger
        .wait_for_projection(NOTIFICATIONS, head, Duration::from_secs(60))
        .await
    {
        tracing::warn!(%error, "the read side is behind: notifications that it does not show yet are found later");
    }
    sweep(&outbox, i64::MAX).await
}

async fn next_sweep(outbox: Arc<Outbox>) -> Vec<String> {
    tokio::time::sleep(SWEEP).await;
    sweep(&outbox, outbox.env.clock.now_millis() - SWEEP_AGE_MILLIS).await
}

async fn sweep(outbox: &Outbox, before_millis: i64) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    loop {
        let after = found.last().cloned().unwrap_or_default();
        match outbox.queries.owed(before_millis, &after, PAGE).await {
            Ok(page) if page.is_empty() => return found,
            Ok(page) => found.extend(page),
            Err(error) => {
                tracing::warn!(%error, "owed notifications could not be listed, trying again later");
                return found;
            }
        }
    }
}
