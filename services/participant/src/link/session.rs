//! One stream, from Hello to its end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sagamesh_api::saga::v1::{
    Command, Credit, Drain, Heartbeat, Hello, ParticipateRequest, ParticipateResponse,
    Result as StepResult, ResultAck, ResultStatus, Welcome, participate_request as to,
    participate_response as from,
};
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use super::Link;
use super::attempt::{Attempt, Ended};
use super::attempts::{Attempts, Known};
use crate::Outcome;
use crate::builder::Shared;

/// The longest that opening a stream may take, up to its Welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Newest version of the protocol that this library speaks, and the oldest that it can do with.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;
/// The heartbeat interval when Welcome names none.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(5);
/// An interval of silence times this: the stream is given up.
const SILENCES: u32 = 3;

/// How a stream ended without anything being wrong.
#[derive(Debug)]
pub(super) enum End {
    /// The participant stops, and everything is settled or the grace is over.
    Drained,
    /// The coordinator stops.
    CoordinatorDrained,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the coordinator refused the stream: {0}")]
    Refused(String),
    #[error("the coordinator closed the stream")]
    Lost,
    #[error("the stream broke: {0}")]
    Broken(String),
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Protocol(&'static str),
    #[error("it speaks version {0} of the protocol, and this library {first} to {last}: update one of them", first = VERSIONS.start(), last = VERSIONS.end())]
    Version(u32),
}

/// A stream that was welcomed.
struct Stream {
    outbox: mpsc::UnboundedSender<ParticipateRequest>,
    inbound: Streaming<ParticipateResponse>,
    ticks: Interval,
    heard: Instant,
    /// Drain was sent.
    draining: bool,
    /// Drain was received.
    coordinator_draining: bool,
}

impl Stream {
    fn send(&self, message: to::Message) {
        // If the stream is gone the inbound side says so; what matters is sent again on the next one.
        let _ = self.outbox.send(ParticipateRequest {
            message: Some(message),
        });
    }
}

impl Link {
    /// Opens a stream and serves it to its end.
    pub(super) async fn session(&mut self) -> Result<End, SessionError> {
        let shared = Arc::clone(&self.shared);
        let opened = tokio::select! {
            biased;
            opened = tokio::time::timeout(WELCOME_TIMEOUT, self.open()) => opened,
            // With unfinished business a stream is still worth opening: the grace goes on in the session.
            () = shared.stop.cancelled(), if self.attempts.is_settled() => return Ok(End::Drained),
        };
        let (mut stream, welcome) = opened.map_err(|_| {
            SessionError::Connect(format!("no Welcome within {WELCOME_TIMEOUT:?}"))
        })??;
        self.metrics.connects.increment(1);
        info!(coordinator = %welcome.coordinator, address = %self.address, "connected");
        let _connected = Connected::enter(&shared);
        self.meet(&welcome.peers);
        for result in shared.adopt() {
            self.attempts.adopt(result);
        }
        for result in self.attempts.unacknowledged() {
            self.metrics.resent.increment(1);
            stream.send(to::Message::Result(result.clone()));
        }
        self.serve(&mut stream).await
    }

    async fn open(&mut self) -> Result<(Stream, Welcome), SessionError> {
        let (outbox, requests) = mpsc::unbounded_channel();
        while let Some(ended) = self.running.try_join_next() {
            self.keep(ended);
        }
        let hello = Hello {
            participant: self.shared.name.clone(),
            instance: self.shared.instance.clone(),
            actions: self.shared.steps.keys().cloned().collect(),
            credits: self.attempts.open(),
            attempts_in_progress: self.attempts.in_progress(),
            protocol_version: *VERSIONS.end(),
            minimum_protocol_version: *VERSIONS.start(),
        };
        let hello = ParticipateRequest {
            message: Some(to::Message::Hello(hello)),
        };
        // The receiver is two lines below.
        let _ = outbox.send(hello);
        let response = self
            .client
            .participate(UnboundedReceiverStream::new(requests))
            .await
            .map_err(|e| refused(&e))?;
        let mut inbound = response.into_inner();
        let first = inbound
            .message()
            .await
            .map_err(|e| refused(&e))?
            .ok_or(SessionError::Lost)?;
        let Some(from::Message::Welcome(welcome)) = first.message else {
            return Err(SessionError::Protocol("the first message was not Welcome"));
        };
        // A coordinator from before versions had numbers says none, and speaks the first.
        let version = welcome.protocol_version.max(1);
        if !VERSIONS.contains(&version) {
            return Err(SessionError::Version(version));
        }
        let interval = welcome
            .heartbeat_interval
            .and_then(|interval| Duration::try_from(interval).ok());
        let interval = interval
            .filter(|interval| !interval.is_zero())
            .unwrap_or(DEFAULT_HEARTBEAT);
        if welcome.max_payload_bytes > 0 {
            self.max_payload_bytes = welcome.max_payload_bytes;
        }
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let stream = Stream {
            outbox,
            inbound,
            ticks,
            heard: Instant::now(),
            draining: false,
            coordinator_draining: false,
        };
        Ok((stream, welcome))
    }

    /// Holds a stream to each replica. A coordinator that does not list the address we dialled is behind an address of several:
    /// then peers are left to the configuration, since a second stream of this instance would replace this one.
    fn meet(&self, peers: &[String]) {
        if peers.contains(&self.address) {
            Shared::meet(&self.shared, peers);
        } else if peers.len() > 1 {
            warn!(address = %self.address, "the coordinator's replicas are known by other addresses; configure one of theirs");
        }
    }

    async fn serve(&mut self, stream: &mut Stream) -> Result<End, SessionError> {
        let shared = Arc::clone(&self.shared);
        let mut stopped = std::pin::pin!(shared.stop.cancelled());
        let mut others = shared.beats.subscribe();
        loop {
            if let Some(end) = self.is_over(stream) {
                return Ok(end);
            }
            let stop_at = self.stop_at;
            tokio::select! {
                // The same order each time. What comes before the messages is bounded by the credits and by time; silence is judged when all were read.
                biased;
                Some(ended) = self.running.join_next() => {
                    let result = self.keep(ended);
                    if let Some(result) = result {
                        stream.send(to::Message::Result(result));
                    }
                    while let Some(ended) = self.running.try_join_next() {
                        if let Some(result) = self.keep(ended) {
                            stream.send(to::Message::Result(result));
                        }
                    }
                }
                () = shared.orphaned.notified() => {
                    for result in shared.adopt() {
                        self.metrics.resent.increment(1);
                        self.attempts.adopt(result.clone());
                        stream.send(to::Message::Result(result));
                    }
                }
                // Those that were missed are too old to matter.
                Ok(beat) = others.recv() => stream.send(to::Message::Heartbeat(beat)),
                beats = self.beats.next() => {
                    for beat in beats {
                        stream.send(to::Message::Heartbeat(beat));
                    }
                }
                () = &mut stopped, if !stream.draining => {
                    self.begin_stop();
                    stream.draining = true;
                    let grace = prost_types::Duration::try_from(shared.grace).ok();
                    stream.send(to::Message::Drain(Drain { grace }));
                }
                () = async { if let Some(at) = stop_at { tokio::time::sleep_until(at).await } }, if stop_at.is_some() => {
                    warn!(coordinator = %self.address, "the grace is over; what still runs is dropped, the coordinator sends it again");
                    return Ok(End::Drained);
                }
                message = stream.inbound.message() => {
                    let message = message.map_err(|status| SessionError::Broken(in_words(&status)))?;
                    let message = match message {
                        Some(message) => message.message,
                        None if stream.coordinator_draining => return Ok(End::CoordinatorDrained),
                        None => return Err(SessionError::Lost),
                    };
                    stream.heard = Instant::now();
                    self.receive(stream, message)?;
                }
                _ = stream.ticks.tick() => {
                    let limit = stream.ticks.period() * SILENCES;
                    if stream.heard.elapsed() >= limit {
                        return Err(SessionError::Silent(limit));
                    }
                    stream.send(to::Message::Heartbeat(Heartbeat::default()));
                    self.give_credits(stream, Attempts::all_credits_to_return);
                }
            }
            self.give_credits(stream, Attempts::credits_to_return);
        }
    }

    /// Whether the stream has nothing left to do.
    fn is_over(&self, stream: &Stream) -> Option<End> {
        if stream.draining && self.attempts.is_settled() {
            return Some(End::Drained);
        }
        (stream.coordinator_draining && self.attempts.is_idle() && self.attempts.is_settled())
            .then_some(End::CoordinatorDrained)
    }

    fn give_credits(&mut self, stream: &Stream, owed: fn(&mut Attempts) -> Option<u32>) {
        if stream.draining || stream.coordinator_draining {
            return;
        }
        if let Some(commands) = owed(&mut self.attempts) {
            stream.send(to::Message::Credit(Credit { commands }));
        }
    }

    fn receive(
        &mut self,
        stream: &mut Stream,
        message: Option<from::Message>,
    ) -> Result<(), SessionError> {
        match message {
            Some(from::Message::Command(command)) => self.command(stream, command),
            Some(from::Message::ResultAck(ack)) => self.acknowledged(&ack),
            Some(from::Message::Heartbeat(_)) => {}
            Some(from::Message::Drain(_)) => stream.coordinator_draining = true,
            Some(from::Message::Peers(peers)) => self.meet(&peers.addresses),
            Some(from::Message::Welcome(_)) => {
                return Err(SessionError::Protocol("a second Welcome"));
            }
            // A kind of message that a newer coordinator knows.
            None => {
                debug!(coordinator = %self.address, "an empty message, or one of a newer version")
            }
        }
        Ok(())
    }

    fn command(&mut self, stream: &Stream, command: Command) {
        let paid = self.attempts.spend();
        match self.attempts.known(command.lease_token) {
            Known::Running => {
                debug!(
                    lease_token = command.lease_token,
                    "the attempt is running already"
                );
                if paid {
                    self.attempts.refund();
                }
                return;
            }
            Known::Ended(result) => {
                stream.send(to::Message::Result(result.clone()));
                if paid {
                    self.attempts.refund();
                }
                return;
            }
            Known::No => {}
        }
        if !paid {
            self.metrics.violations.increment(1);
            return self.decline(
                stream,
                command,
                "NO_CREDIT",
                "the participant had given no credit for this command",
            );
        }
        if stream.draining {
            self.attempts.refund();
            return self.decline(
                stream,
                command,
                "DRAINING",
                "the participant is about to stop",
            );
        }
        let direction = command.direction();
        let Some(registered) = self
            .shared
            .steps
            .get(&command.action)
            .and_then(|handlers| handlers.get(direction))
        else {
            warn!(action = %command.action, ?direction, "no handler is registered for this command");
            self.attempts.refund();
            let why =
                "this version of the participant has no handler for it; is a rollout under way?";
            return self.decline(stream, command, "ACTION_NOT_REGISTERED", why);
        };
        if !self.attempts.has_room() {
            self.attempts.refund();
            return self.decline(
                stream,
                command,
                "NO_ROOM",
                "the participant is busy with earlier commands",
            );
        }
        self.attempts.started(command.lease_token);
        let (handler, metrics) = (
            Arc::clone(&registered.handler),
            Arc::clone(&registered.metrics),
        );
        let mut attempt =
            Box::pin(Attempt::new(command, self.beats.beats(), handler, metrics).run());
        // Up to its first wait it runs here: what ends without waiting costs no task, and what goes to a database is queued there
        // together with the other commands of this batch.
        match attempt.as_mut().now_or_never() {
            Some(ended) => {
                let result = self.result_of(ended);
                stream.send(to::Message::Result(result));
            }
            None => {
                self.running.spawn(attempt);
            }
        }
    }

    /// Answers a command without running it: it certainly did nothing.
    fn decline(&mut self, stream: &Stream, command: Command, reason: &str, message: &str) {
        let direction = command.direction();
        let Command {
            lease_token,
            saga_id,
            step,
            ..
        } = command;
        let outcome = Outcome::transient(reason, message);
        let result = self.result_of(Ended {
            lease_token,
            saga_id,
            step,
            direction,
            outcome,
        });
        stream.send(to::Message::Result(result));
    }

    /// Keeps the result of a handler that ended until it is acknowledged.
    pub(super) fn keep(&mut self, ended: Result<Ended, JoinError>) -> Option<StepResult> {
        match ended {
            Ok(ended) => Some(self.result_of(ended)),
            Err(error) => {
                // Handlers' panics are caught inside the task, and nobody cancels one.
                warn!(%error, "a handler's task failed");
                None
            }
        }
    }

    fn result_of(&mut self, ended: Ended) -> StepResult {
        let result = StepResult {
            lease_token: ended.lease_token,
            saga_id: ended.saga_id,
            step: ended.step,
            direction: ended.direction.into(),
            outcome: Some(ended.outcome.into_wire(self.max_payload_bytes)),
        };
        self.attempts.ended(result.clone());
        result
    }

    fn acknowledged(&mut self, ack: &ResultAck) {
        if !self.attempts.acknowledged(ack.lease_token) {
            return debug!(
                lease_token = ack.lease_token,
                "an acknowledgement of nothing"
            );
        }
        match ack.status() {
            ResultStatus::Accepted | ResultStatus::Duplicate | ResultStatus::Unspecified => {}
            ResultStatus::Superseded => {
                self.metrics.superseded.increment(1);
                debug!(
                    lease_token = ack.lease_token,
                    "the result came too late: another attempt is under way"
                );
            }
            ResultStatus::Invalid => {
                self.metrics.invalid.increment(1);
                warn!(lease_token = ack.lease_token, why = %ack.message, "the coordinator refused a result");
            }
        }
    }
}

/// Counts a stream as connected while it lives.
struct Connected(Arc<Shared>);

impl Connected {
    fn enter(shared: &Arc<Shared>) -> Self {
        shared.connected.send_modify(|streams| *streams += 1);
        Self(Arc::clone(shared))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connected.send_modify(|streams| *streams -= 1);
    }
}

fn refused(status: &Status) -> SessionError {
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::NotFound
        | Code::AlreadyExists => SessionError::Refused(in_words(status)),
        _ => SessionError::Connect(in_words(status)),
    }
}

fn in_words(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}
