//! Hands over what is owed, at least once: a notification is marked as sent after the mailer took it, so that a crash in between sends it again,
//! with the same Message-ID.

use std::sync::Arc;
use std::time::Duration;

use chassis::trace::{self, KeyValue};
use chassis::{Backoff, Env};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use ledger::{Committed, Ledger};
use lettre::message::Mailbox;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::decider::{Command, Notifications, stream};
use crate::domain::NotificationEvent;
use crate::mail::{self, MailError, Mailer};
use crate::projection::NOTIFICATIONS;
use crate::queries::Queries;
use crate::queue::{Note, Queue};

/// Mails that are handed over at the same time.
const AT_ONCE: usize = 16;
/// Notifications that are under way at the same time: read, handed over, marked.
const PLACES: usize = 4_096;
/// How often what nobody looks after is searched for.
const SWEEP: Duration = Duration::from_secs(30);
/// Only older ones: the newer are under way in the process that recorded them.
const SWEEP_AGE_MILLIS: i64 = 60_000;
/// Notifications per query.
const PAGE: usize = 500;
/// After so many refusals for good, about a day, a notification has failed: long enough for somebody to mend a mail server that refuses everything.
const REFUSALS: u32 = 30;
/// The first wait after a failure that passes, and the longest.
const PASSING: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// The same after a refusal for good.
const LASTING: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));

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
                let note = Note::new(
                    commit.stream.key().to_owned(),
                    Some(Box::new(recorded.clone())),
                );
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
    Settled(String),
    Failed(Note, Duration),
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
    let mut queue = Queue::new(PLACES);
    running.push(first_sweep(Arc::clone(&outbox)).map(Done::Swept).boxed());
    loop {
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            note = notes.recv() => match note {
                Some(note) => queue.add(note),
                None => return,
            },
            Some(done) = running.next() => match done {
                Done::Settled(id) => queue.done(&id),
                Done::Failed(note, wait) => queue.again(note, Instant::now() + wait),
                Done::Swept(found) => {
                    found.into_iter().for_each(|id| queue.add(Note::new(id, None)));
                    running.push(next_sweep(Arc::clone(&outbox)).map(Done::Swept).boxed());
                }
            },
            () = due(queue.next_at()) => {}
        }
        while let Some(note) = queue.next(Instant::now()) {
            running.push(hand_over(Arc::clone(&outbox), note).boxed());
        }
        metrics::gauge!("notifications_owed").set(queue.len() as f64);
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One try to hand a notification over and to mark it so. It never waits for the next one: that would take the place of others.
async fn hand_over(outbox: Arc<Outbox>, mut note: Note) -> Done {
    let Err(error) = outbox.step(&mut note).await else {
        return Done::Settled(note.id);
    };
    metrics::counter!("notifications_send_failures_total", "mailer" => outbox.mailer.kind())
        .increment(1);
    let wait = match &error {
        MailError::Passing(_) => next_wait(&mut note.tries.passing, PASSING, &outbox.env),
        MailError::Lasting(why) => {
            note.tries.refusals += 1;
            if note.tries.refusals >= REFUSALS && outbox.give_up(&note, why).await {
                return Done::Settled(note.id);
            }
            next_wait(&mut note.tries.lasting, LASTING, &outbox.env)
        }
    };
    tracing::warn!(notification_id = note.id, %error, ?wait, "a notification was not handed over, trying again");
    Done::Failed(note, wait)
}

fn next_wait(
    backoff: &mut Option<Backoff>,
    (first, limit): (Duration, Duration),
    env: &Env,
) -> Duration {
    backoff
        .get_or_insert_with(|| Backoff::new(first, limit))
        .next(env)
}

impl Outbox {
    /// Goes as far as it can: reads the text, hands it over, marks it as sent.
    async fn step(&self, note: &mut Note) -> Result<(), MailError> {
        let id = note.id.as_str();
        let passing = |error: &dyn std::fmt::Display| MailError::Passing(error.to_string());
        if note.recorded.is_none() {
            let (state, _) = self
                .ledger
                .load(&stream(id))
                .await
                .map_err(|error| passing(&error))?;
            if !state.is_owed() {
                return Ok(());
            }
            note.recorded = state.recorded;
        }
        let Some(recorded) = &note.recorded else {
            return Ok(());
        };
        if !note.tries.sent {
            let mail = mail::write(id, recorded, &self.from, &self.env)?;
            let _slot = self
                .slots
                .acquire()
                .await
                .map_err(|error| passing(&error))?;
            let span = self.span(id, &recorded.traceparent);
            let taken = self.mailer.send(&mail).instrument(span.clone()).await;
            if taken.is_err() {
                trace::failed(&span, "mailer");
            }
            drop(span);
            taken?;
            metrics::counter!("notifications_sent_total", "mailer" => self.mailer.kind())
                .increment(1);
            note.tries.sent = true;
        }
        match self.ledger.execute(Command::Sent(id.to_owned())).await {
            Ok(_) => Ok(()),
            Err(error) => Err(passing(&error)),
        }
    }

    /// Puts on record that it failed; whether that worked.
    async fn give_up(&self, note: &Note, why: &str) -> bool {
        let command = Command::Failed {
            id: note.id.clone(),
            reason: why.to_owned(),
        };
        match self.ledger.execute(command).await {
            Ok(_) => {
                metrics::counter!("notifications_failed_total", "mailer" => self.mailer.kind())
                    .increment(1);
                tracing::error!(
                    notification_id = note.id,
                    why,
                    refusals = note.tries.refusals,
                    "a notification has failed and is not tried again: reach the customer in another way"
                );
                true
            }
            Err(error) => {
                tracing::warn!(notification_id = note.id, %error, "that a notification has failed could not be put on record");
                false
            }
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

#[cfg(test)]
mod tests;
