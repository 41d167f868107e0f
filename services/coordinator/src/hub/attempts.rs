//! Attempts from their dispatch to their end, and how they get from the queues to the streams.

use chassis::{Permit, timestamp};
use ledger::StreamId;
use sagamesh_api::saga::v1::participate_response::Message;
use sagamesh_api::saga::v1::{self as pb, Direction, UnknownCause, result::Outcome};

use super::Hub;
use super::queues::Participant;
use super::session::{Session, SessionId};
use super::timers::{Due, TimerKey};
use crate::saga;

/// An attempt that is owed or under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) saga: StreamId,
    pub(super) step: saga::StepIndex,
    pub(super) direction: Direction,
    pub(super) participant: usize,
    pub(super) queue: usize,
    pub(super) place: Place,
    pub(super) timeout: i64,
    /// Before the pivot: the saga's deadline, after which it must not take effect.
    pub(super) latest: Option<i64>,
    pub(super) heartbeat: Option<i64>,
    /// When it was written to a stream, and when its last sign of life came.
    pub(super) sent: i64,
    pub(super) beat: i64,
    pub(super) timer: Option<TimerKey>,
    pub(super) permit: Option<Permit>,
    /// Its result came and is being recorded.
    pub(super) answered: bool,
}

/// Where an attempt is.
#[derive(Debug)]
pub(super) enum Place {
    /// In its queue.
    Queued(Box<pb::Command>),
    /// In the outbox of a stream.
    Outbox(SessionId),
    /// Written to a stream; `None` if that stream is gone.
    Sent(Option<SessionId>),
}

/// What is to be done with a result.
#[derive(Debug, PartialEq, Eq)]
pub enum Reported {
    /// It belongs to a live attempt of this saga.
    Live(StreamId),
    /// No attempt with this token is awaited, or its result is being recorded: the saga's history knows.
    Unawaited,
}

/// A command that a stream gave back: nothing was done, and it says nothing about what other streams can do.
#[derive(Clone, Copy)]
enum Declined {
    /// The stream takes no more, as it said before.
    Draining,
    /// It takes no more of this action.
    NoHandler,
    /// It has no room now.
    Busy,
}

fn declined(result: &pb::Result, draining: bool) -> Option<Declined> {
    let Some(Outcome::Transient(failure)) = &result.outcome else {
        return None;
    };
    match failure.reason.as_str() {
        "DRAINING" if draining => Some(Declined::Draining),
        "ACTION_NOT_REGISTERED" => Some(Declined::NoHandler),
        "NO_CREDIT" | "NO_ROOM" => Some(Declined::Busy),
        _ => None,
    }
}

impl Attempt {
    pub(super) fn expires(&self) -> (i64, UnknownCause) {
        let timeout = self.sent.saturating_add(self.timeout);
        match self.heartbeat {
            Some(silence) if self.beat.saturating_add(silence) < timeout => (
                self.beat.saturating_add(silence),
                UnknownCause::HeartbeatLost,
            ),
            _ => (timeout, UnknownCause::Timeout),
        }
    }
}

impl Hub {
    /// Gives work to streams that have credits, urgent work first, then round robin over actions and instances.
    pub(super) fn pump(&mut self, now: i64) {
        while let Some(at) = self.dirty.pop() {
            self.participants[at].dirty = false;
            if !self.draining {
                self.pump_participant(at, true, now);
                self.pump_participant(at, false, now);
            }
            self.meter(at);
        }
    }

    fn pump_participant(&mut self, at: usize, urgent: bool, now: i64) {
        let count = self.participants[at].queues.len();
        let mut idle = 0;
        while idle < count {
            let participant = &mut self.participants[at];
            if participant.queued == 0 || participant.paused || participant.is_full() {
                return;
            }
            let queue = participant.next_queue % count;
            participant.next_queue = (queue + 1) % count;
            let wanted = participant.queues[queue].urgent == urgent;
            if wanted && self.release_one(at, queue, now) {
                idle = 0
            } else {
                idle += 1
            }
        }
    }

    /// Moves the oldest work of a queue to a stream, if it may go.
    fn release_one(&mut self, at: usize, queue: usize, now: i64) -> bool {
        let Some(token) = self.front(at, queue) else {
            return false;
        };
        let participant = &mut self.participants[at];
        let Some(session) = open_session(participant, &self.sessions, queue) else {
            return false;
        };
        let permit = match participant.queues[queue]
            .breaker
            .as_ref()
            .map(|breaker| breaker.try_acquire(now))
        {
            None => None,
            Some(Ok(permit)) => Some(permit),
            Some(Err(held)) => {
                let queue_state = &mut participant.queues[queue];
                if !queue_state.probe_set {
                    queue_state.probe_set = true;
                    let after = i64::try_from(held.0.as_millis()).unwrap_or(i64::MAX).max(1);
                    self.timers
                        .set(now.saturating_add(after), Due::Probe(at, queue));
                }
                return false;
            }
        };
        participant.queues[queue].waiting.pop_front();
        participant.queues[queue].attempts.increment(1);
        participant.queued -= 1;
        participant.in_flight += 1;
        let (Some(attempt), Some(stream)) = (
            self.attempts.get_mut(&token),
            self.sessions.get_mut(&session),
        ) else {
            return false;
        };
        attempt.permit = permit;
        if let Place::Queued(mut command) =
            std::mem::replace(&mut attempt.place, Place::Outbox(session))
        {
            if let Some(not_after) = &mut command.not_after_time {
                let end = now.saturating_add(attempt.timeout);
                *not_after =
                    timestamp::from_millis(attempt.latest.map_or(end, |latest| latest.min(end)));
            }
            stream.push(Message::Command(*command));
        }
        stream.credits -= 1;
        stream.in_flight += 1;
        self.woken.push(session);
        true
    }

    /// The oldest token of a queue whose attempt still waits; stale ones are dropped.
    fn front(&mut self, at: usize, queue: usize) -> Option<u64> {
        let queue = &mut self.participants[at].queues[queue];
        loop {
            let token = *queue.waiting.front()?;
            if self
                .attempts
                .get(&token)
                .is_some_and(|attempt| matches!(attempt.place, Place::Queued(_)))
            {
                return Some(token);
            }
            queue.waiting.pop_front();
        }
    }

    /// A command was handed to the transport: its time starts.
    pub(super) fn sent(&mut self, token: u64, session: SessionId, now: i64) {
        let Some(attempt) = self.attempts.get_mut(&token) else {
            return;
        };
        attempt.place = Place::Sent(Some(session));
        attempt.sent = now;
        attempt.beat = now;
        attempt.timer = Some(self.timers.set(attempt.expires().0, Due::Attempt(token)));
    }

    /// A sign of life of an attempt.
    pub fn beat(&mut self, token: u64, now: i64) {
        if let Some(attempt) = self.attempts.get_mut(&token) {
            attempt.beat = now;
        }
    }

    /// A result came on a stream. It counts for breakers and limits at once; for the saga once it is recorded.
    pub fn reported(&mut self, result: &pb::Result) -> Reported {
        let token = result.lease_token;
        let Some(attempt) = self.attempts.get_mut(&token) else {
            return Reported::Unawaited;
        };
        if attempt.answered
            || !matches!(attempt.place, Place::Sent(_))
            || attempt.saga.key() != result.saga_id
        {
            return Reported::Unawaited;
        }
        attempt.answered = true;
        let queue = &self.participants[attempt.participant].queues[attempt.queue];
        let permit = attempt.permit.take();
        let draining = match attempt.place {
            Place::Sent(Some(stream)) => self.sessions.get(&stream),
            _ => None,
        }
        .is_some_and(|stream| stream.draining);
        let declined = declined(result, draining);
        match &result.outcome {
            Some(Outcome::Success(_)) => queue.outcomes.success.increment(1),
            Some(Outcome::Rejection(_)) => queue.outcomes.rejection.increment(1),
            Some(Outcome::Transient(_)) => queue.outcomes.transient.increment(1),
            Some(Outcome::Unknown(_)) | None => queue.outcomes.unknown.increment(1),
        }
        if let Some(permit) = permit {
            let definite = matches!(
                result.outcome,
                Some(Outcome::Success(_) | Outcome::Rejection(_))
            );
            if definite {
                permit.success()
            } else if declined.is_some() {
                permit.release()
            } else {
                permit.failure()
            }
        }
        let saga = attempt.saga.clone();
        let stream = match attempt.place {
            Place::Sent(stream) => stream,
            _ => None,
        };
        if let (Some(Declined::NoHandler), Some(stream)) = (declined, stream)
            && let Some(session) = self.sessions.get_mut(&stream)
        {
            session.actions.retain(|handled| *handled != queue.action);
        }
        self.leave(token);
        Reported::Live(saga)
    }

    /// The result could not be recorded after all: it is awaited again.
    pub fn unreported(&mut self, token: u64) {
        if let Some(attempt) = self.attempts.get_mut(&token)
            && std::mem::take(&mut attempt.answered)
        {
            self.participants[attempt.participant].in_flight += 1;
            if let Place::Sent(session) = &mut attempt.place {
                match session.and_then(|session| self.sessions.get_mut(&session)) {
                    Some(stream) => stream.in_flight += 1,
                    None => *session = None,
                }
            }
        }
    }

    /// An attempt no longer counts against its participant and its stream.
    fn leave(&mut self, token: u64) {
        let Some(attempt) = self.attempts.get(&token) else {
            return;
        };
        let (at, place) = (attempt.participant, &attempt.place);
        let participant = &mut self.participants[at];
        match place {
            Place::Queued(_) => participant.queued = participant.queued.saturating_sub(1),
            Place::Outbox(session) | Place::Sent(Some(session)) => {
                participant.in_flight = participant.in_flight.saturating_sub(1);
                if let Some(stream) = self.sessions.get_mut(session) {
                    stream.in_flight = stream.in_flight.saturating_sub(1);
                }
            }
            Place::Sent(None) => participant.in_flight = participant.in_flight.saturating_sub(1),
        }
        self.touch(at);
    }

    /// Removes an attempt that nobody waits for any more.
    pub(super) fn close(&mut self, token: u64) {
        if self
            .attempts
            .get(&token)
            .is_some_and(|attempt| !attempt.answered)
        {
            self.take_back(token);
            self.leave(token);
        }
        let Some(attempt) = self.attempts.remove(&token) else {
            return;
        };
        if let Some(timer) = attempt.timer {
            self.timers.remove(timer);
        }
        if let Some(permit) = attempt.permit {
            permit.release();
        }
    }

    /// Takes a command out of an outbox, with its credit.
    fn take_back(&mut self, token: u64) -> bool {
        let Some(Attempt {
            place: Place::Outbox(session),
            ..
        }) = self.attempts.get(&token)
        else {
            return false;
        };
        let Some(stream) = self.sessions.get_mut(session) else {
            return false;
        };
        let taken = stream.take_back(token).is_some();
        stream.credits += u32::from(taken);
        taken
    }

    /// The saga is aborting: an attempt that was never written to a stream will not be.
    pub(super) fn settle(&mut self, token: u64) {
        let unsent = match self.attempts.get(&token).map(|attempt| &attempt.place) {
            Some(Place::Queued(_)) => true,
            Some(Place::Outbox(_)) => self.take_back(token),
            _ => false,
        };
        if !unsent {
            return;
        }
        self.leave(token);
        if let Some(attempt) = self.attempts.get_mut(&token) {
            // From here it counts nowhere; the record of NeverSent closes it.
            attempt.answered = true;
            attempt.place = Place::Sent(None);
            if let Some(permit) = attempt.permit.take() {
                permit.release();
            }
            let command = saga::Command::NeverSent {
                step: attempt.step,
                direction: attempt.direction,
                token,
            };
            self.out.commands.push((attempt.saga.clone(), command));
        }
    }

    /// The timer of an attempt fired.
    pub(super) fn expired(&mut self, token: u64, now: i64) {
        let Some(attempt) = self.attempts.get_mut(&token) else {
            return;
        };
        let (at, cause) = attempt.expires();
        if at > now {
            attempt.timer = Some(self.timers.set(at, Due::Attempt(token)));
            return;
        }
        attempt.timer = None;
        self.participants[attempt.participant].queues[attempt.queue]
            .outcomes
            .unknown
            .increment(1);
        if let Some(permit) = attempt.permit.take() {
            permit.failure();
        }
        let command = saga::Command::AttemptTimedOut {
            step: attempt.step,
            direction: attempt.direction,
            token,
            cause,
        };
        self.out.commands.push((attempt.saga.clone(), command));
        let participant = attempt.participant;
        self.touch(participant);
    }

    fn meter(&self, at: usize) {
        let participant = &self.participants[at];
        let streams = participant
            .sessions
            .iter()
            .filter_map(|id| self.sessions.get(id));
        let credits: u64 = streams.map(|session| u64::from(session.credits)).sum();
        participant.meters.queued.set(participant.queued as f64);
        participant
            .meters
            .in_flight
            .set(f64::from(participant.in_flight));
        participant.meters.credits.set(credits as f64);
        participant
            .meters
            .streams
            .set(participant.sessions.len() as f64);
    }
}

/// The next stream, in turn, that handles the queue's action and has a credit.
fn open_session(
    participant: &mut Participant,
    sessions: &std::collections::BTreeMap<SessionId, Session>,
    queue: usize,
) -> Option<SessionId> {
    let count = participant.sessions.len();
    let action = &participant.queues[queue].action;
    for offset in 0..count {
        let at = (participant.next_session + offset) % count;
        let id = participant.sessions[at];
        if sessions
            .get(&id)
            .is_some_and(|session| session.is_open() && session.handles(action))
        {
            participant.next_session = (at + 1) % count;
            return Some(id);
        }
    }
    None
}
