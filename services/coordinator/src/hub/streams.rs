//! Streams of participants: opening, credits, draining, closing.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use chassis::Permit;
use sagamesh_api::saga::v1::participate_response::Message;
use sagamesh_api::saga::v1::{Drain, Heartbeat, Hello, ParticipateResponse, ResultAck, Welcome};
use tonic::Status;

use super::Hub;
use super::attempts::Place;
use super::session::{End, Session, SessionId};

/// Credits beyond this are not counted.
const MOST_CREDITS: u32 = 1_000_000;
/// A peer that leaves more acknowledgements than this unread is given up.
const MOST_ACKS: usize = 16_384;

impl Hub {
    /// A participant said Hello. An earlier stream of the same instance ends with `replaced`.
    pub(crate) fn open(
        &mut self,
        hello: Hello,
        mut welcome: Welcome,
        replaced: Status,
        now: i64,
    ) -> SessionId {
        let at = self.participant(&hello.participant);
        let same = |id: &SessionId| {
            self.sessions
                .get(id)
                .is_some_and(|session| session.instance == hello.instance)
        };
        if let Some(old) = self.participants[at].sessions.iter().copied().find(same) {
            self.close_session(old);
            self.end_session(old, End::Refused(replaced));
        }
        self.next_session += 1;
        let id = self.next_session;
        let in_progress = hello.attempts_in_progress.clone();
        let mut session = Session::new(at, hello, now);
        welcome.peers.clone_from(&self.peers);
        session.push(Message::Welcome(welcome));
        if self.draining {
            session.push(Message::Drain(Drain::default()));
        }
        for token in in_progress {
            if let Some(attempt) = self.attempts.get_mut(&token)
                && attempt.participant == at
                && let Place::Sent(place) = &mut attempt.place
                && !attempt.answered
            {
                if let Some(stream) = place.and_then(|old| self.sessions.get_mut(&old)) {
                    stream.in_flight = stream.in_flight.saturating_sub(1);
                }
                *place = Some(id);
                attempt.beat = now;
                session.in_flight += 1;
            }
        }
        self.sessions.insert(id, session);
        self.participants[at].sessions.push(id);
        self.touch(at);
        id
    }

    /// The inbound half of a stream is over: nothing is sent on it any more. What was not written to it goes back to the front
    /// of its queue; what was written keeps its timeout, so that the participant may reconnect and finish.
    pub(crate) fn close_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let at = session.participant;
        self.requeue_unsent(id);
        for attempt in self.attempts.values_mut() {
            if matches!(attempt.place, Place::Sent(Some(place)) if place == id) {
                attempt.place = Place::Sent(None);
                // Nobody may answer a probe on a stream that is gone; another one is due after the recovery time.
                if attempt.permit.as_ref().is_some_and(Permit::is_probe)
                    && let Some(permit) = attempt.permit.take()
                {
                    permit.failure();
                }
            }
        }
        self.participants[at].sessions.retain(|other| *other != id);
        self.touch(at);
    }

    /// What was not written to a stream goes back to the front of its queues.
    fn requeue_unsent(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let at = session.participant;
        for command in session.take_unsent().into_iter().rev() {
            let token = command.lease_token;
            let Some(attempt) = self.attempts.get_mut(&token) else {
                continue;
            };
            attempt.place = Place::Queued(Box::new(command));
            // It never went out, so it says nothing about the participant.
            if let Some(permit) = attempt.permit.take() {
                permit.release();
            }
            let participant = &mut self.participants[at];
            participant.queues[attempt.queue].waiting.push_front(token);
            participant.queued += 1;
            participant.in_flight = participant.in_flight.saturating_sub(1);
            session.in_flight = session.in_flight.saturating_sub(1);
        }
    }

    /// Ends the outbound half of a stream once its outbox is empty. It takes no commands any more.
    pub(crate) fn end_session(&mut self, id: SessionId, end: End) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.end.get_or_insert(end);
            self.woken.push(id);
        }
    }

    /// The transport dropped the stream.
    pub(crate) fn forget_session(&mut self, id: SessionId) {
        self.close_session(id);
        self.sessions.remove(&id);
    }

    /// More commands are welcome.
    pub(crate) fn credit(&mut self, id: SessionId, commands: u32) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.credits = session.credits.saturating_add(commands).min(MOST_CREDITS);
            let at = session.participant;
            self.touch(at);
        }
    }

    /// The participant wants no more commands. What was not written to its stream goes elsewhere.
    pub(crate) fn drain_session(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.draining = true;
            let at = session.participant;
            self.requeue_unsent(id);
            self.touch(at);
        }
    }

    /// Tells every participant that the coordinator is about to stop; nothing is dispatched any more.
    pub(crate) fn drain(&mut self, grace: prost_types::Duration) {
        self.draining = true;
        for id in self.every_session() {
            self.send(id, Message::Drain(Drain { grace: Some(grace) }));
        }
    }

    /// Whatever is still under way: the streams end.
    pub(crate) fn end_all(&mut self) {
        for id in self.every_session() {
            self.end_session(id, End::Finished);
        }
    }

    /// While draining, a stream ends as soon as nothing is under way on it.
    pub(super) fn end_drained(&mut self) {
        let drained = |session: &Session| {
            session.in_flight == 0 && session.unacknowledged == 0 && session.end.is_none()
        };
        let ids: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| drained(session))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.end_session(id, End::Finished);
        }
    }

    /// A result came on a stream; it will be acknowledged. False if the peer does not read its acknowledgements: then it is not
    /// taken, and what waits to be written is dropped.
    pub(crate) fn received(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return true;
        };
        if session.acks >= MOST_ACKS {
            self.close_session(id);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.outbox.clear();
                session.acks = 0;
            }
            return false;
        }
        session.unacknowledged += 1;
        true
    }

    /// A result is on record, or was refused.
    pub(crate) fn acknowledge(&mut self, id: SessionId, ack: ResultAck) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.unacknowledged = session.unacknowledged.saturating_sub(1);
            session.acks += 1;
        }
        self.send(id, Message::ResultAck(ack));
    }

    /// Writes a message to a stream, if it is still there.
    pub(crate) fn send(&mut self, id: SessionId, message: Message) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.push(message);
            self.woken.push(id);
        }
    }

    /// A sign of life, unless something is written anyway. Commands may have to wait for a lease.
    pub(crate) fn heartbeat(&mut self, id: SessionId) {
        if self
            .sessions
            .get(&id)
            .is_some_and(|session| !session.has_news())
        {
            self.send(id, Message::Heartbeat(Heartbeat::default()));
        }
    }

    /// What is to be written to a stream now, with messages that may follow it in `into`; or how the stream ends; or nothing yet, and
    /// `waker` is remembered. While nothing may be released, commands stay where they are.
    pub(crate) fn poll_outbox(
        &mut self,
        id: SessionId,
        into: &mut VecDeque<ParticipateResponse>,
        waker: &Waker,
        (now, may_release): (i64, bool),
    ) -> Poll<Result<ParticipateResponse, End>> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Poll::Ready(Err(End::Finished));
        };
        let Some(response) = session.hand_over(into, may_release) else {
            if let Some(end) = &session.end {
                return Poll::Ready(Err(end.clone()));
            }
            match &mut session.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            return Poll::Pending;
        };
        if let Some(Message::Command(command)) = &response.message {
            self.sent(command.lease_token, id, now);
        }
        Poll::Ready(Ok(response))
    }
}
