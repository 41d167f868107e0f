//! Streams of participants.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use chassis::{Problem, Violations, timestamp};
use futures_util::Stream;
use prost::Message as _;
use sagamesh_api::saga::v1::participant_service_server::ParticipantService;
use sagamesh_api::saga::v1::{
    self as pb, Failure, Hello, ParticipateRequest, ParticipateResponse, ResultAck, ResultStatus,
    Welcome,
};
use sagamesh_api::saga::v1::{participate_request, result::Outcome};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Participants, check, protocol};
use crate::decider::saga_stream;
use crate::dispatch::Dispatch;
use crate::engine::Engine;
use crate::forward::moving;
use crate::hub::{End, Reported, SessionId};
use crate::problems::{ERRORS, storage};
use crate::report::{Verdict, verdict};
use crate::saga;

/// How long a new stream may take to say Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Silences of this many intervals end a stream.
const SILENCES: u32 = 3;
const MOST_CREDITS: u32 = 100_000;
const MOST_ACTIONS: usize = 256;
/// Most bytes of results of one stream that wait to be recorded; it is not read from meanwhile.
const MOST_WAITING_BYTES: u32 = 16 << 20;
/// What a small result counts for.
const LEAST_BYTES: u32 = 1 << 10;
const LONGEST_STEP_NAME: usize = 128;

#[tonic::async_trait]
impl ParticipantService for Participants {
    type ParticipateStream = Outbound;

    async fn participate(
        &self,
        request: Request<Streaming<ParticipateRequest>>,
    ) -> Result<Response<Outbound>, Status> {
        let identity = request
            .metadata()
            .get("l5d-client-id")
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let mut inbound = request.into_inner();
        let hello = hello(&mut inbound).await?;
        check_hello(&self.engine, &hello, identity.as_deref())?;
        let engine = &self.engine;
        let protocol_version = protocol::agree(&engine.options.protocol, &hello)?;
        let welcome = Welcome {
            coordinator: engine.options.replica.clone(),
            heartbeat_interval: Some(timestamp::from_duration(engine.options.heartbeat_interval)),
            max_payload_bytes: engine.options.max_payload_bytes as u64,
            peers: Vec::new(),
            protocol_version,
        };
        let replaced = problem(Code::Aborted, "STREAM_REPLACED", "a newer stream of the same instance took over: give every process its own instance name").into();
        let participant = hello.participant.clone();
        let session = engine
            .dispatch
            .with(|hub, now| hub.open(hello, welcome, replaced, now));
        tracing::info!(
            participant,
            session,
            protocol_version,
            "a participant connected"
        );
        let gone = CancellationToken::new();
        let reader = Reader {
            engine: engine.clone(),
            session,
            gone: gone.clone(),
            room: Arc::new(Semaphore::new(MOST_WAITING_BYTES as usize)),
        };
        engine
            .tasks
            .spawn("participant-stream", reader.run(inbound));
        let outbound = Outbound {
            dispatch: engine.dispatch.clone(),
            session,
            messages: VecDeque::new(),
            _gone: gone.drop_guard(),
        };
        Ok(Response::new(outbound))
    }
}

fn problem(code: Code, reason: &'static str, message: impl Into<String>) -> Problem {
    ERRORS.problem(code, reason, message)
}

async fn hello(inbound: &mut Streaming<ParticipateRequest>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message()).await;
    let first = first.map_err(|_| {
        problem(
            Code::DeadlineExceeded,
            "NO_HELLO",
            format!("no Hello came within {HELLO_TIMEOUT:?}: send it first"),
        )
    })??;
    match first.and_then(|request| request.message) {
        Some(participate_request::Message::Hello(hello)) => Ok(hello),
        Some(_) => Err(problem(
            Code::FailedPrecondition,
            "HELLO_EXPECTED",
            "the first message of a stream must be Hello",
        )
        .into()),
        None => Err(problem(
            Code::InvalidArgument,
            "EMPTY_MESSAGE",
            "the stream began with an empty message, or ended at once: send Hello first",
        )
        .into()),
    }
}

fn check_hello(engine: &Engine, hello: &Hello, identity: Option<&str>) -> Result<(), Problem> {
    let mut found = Violations::new();
    check::name(&mut found, "hello.participant", &hello.participant);
    check::text(&mut found, "hello.instance", &hello.instance, 1, 128);
    if hello.actions.is_empty() || hello.actions.len() > MOST_ACTIONS {
        found.add(
            "hello.actions",
            format!(
                "has {} entries; 1 to {MOST_ACTIONS} are accepted",
                hello.actions.len()
            ),
        );
    }
    for (at, action) in hello.actions.iter().enumerate() {
        if !check::is_name(action, 127, |byte| {
            byte.is_ascii_alphanumeric() || b"._/-".contains(&byte)
        }) {
            found.add(
                format!("hello.actions[{at}]"),
                "must have 1 to 127 characters of [A-Za-z0-9._/-]",
            );
        }
    }
    if hello.credits > MOST_CREDITS {
        found.add(
            "hello.credits",
            format!("is {}; at most {MOST_CREDITS} are accepted", hello.credits),
        );
    }
    found.into_result(ERRORS)?;
    if !engine.dispatch.look(|hub, _| hub.knows(&hello.participant)) {
        let message = format!(
            "participant {:?} is not known: configure it with --participants, or make it known with OperatorService.PutParticipant",
            hello.participant
        );
        return Err(problem(
            Code::FailedPrecondition,
            "PARTICIPANT_UNKNOWN",
            message,
        ));
    }
    // A mesh supplies `<service account>.<namespace>.serviceaccount.identity...`.
    match identity.and_then(|identity| identity.split('.').next()) {
        Some(account) if account != hello.participant => {
            let message = format!(
                "the mesh identity {account:?} may not speak for participant {:?}",
                hello.participant
            );
            Err(problem(
                Code::PermissionDenied,
                "PARTICIPANT_IDENTITY_MISMATCH",
                message,
            ))
        }
        _ => Ok(()),
    }
}

/// The reading side of a stream.
struct Reader {
    engine: Engine,
    session: SessionId,
    gone: CancellationToken,
    /// Bytes of results that may still come before earlier ones are on record.
    room: Arc<Semaphore>,
}

impl Reader {
    async fn run(self, inbound: Streaming<ParticipateRequest>) {
        let end = self.read(inbound).await;
        let (session, ended) = (self.session, end.is_ok());
        let end = match end {
            Ok(()) => End::Finished,
            Err(status) => {
                tracing::info!(session, code = ?status.code(), reason = status.message(), "a participant's stream ends");
                End::Refused(status)
            }
        };
        self.engine.dispatch.with(|hub, _| {
            hub.close_session(session);
            hub.end_session(session, end);
        });
        if ended {
            tracing::info!(session, "a participant disconnected");
        }
    }

    async fn read(&self, mut inbound: Streaming<ParticipateRequest>) -> Result<(), Status> {
        let interval = self.engine.options.heartbeat_interval;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let stop = self.engine.tasks.token();
        let mut held: Option<(pb::Result, u32)> = None;
        loop {
            let weight = held.as_ref().map_or(0, |(_, weight)| *weight);
            tokio::select! {
                biased;
                // Of a connection that broke nobody sees the status; a message that is too large or garbled is answered with it.
                message = inbound.message(), if held.is_none() => match message? {
                    None => return Ok(()),
                    Some(request) => {
                        heard = Instant::now();
                        held = self.take(request)?;
                    }
                },
                room = Arc::clone(&self.room).acquire_many_owned(weight), if held.is_some() => {
                    heard = Instant::now();
                    if let (Some((result, _)), Ok(room)) = (held.take(), room) {
                        self.result(result, room)?;
                    }
                },
                () = self.gone.cancelled() => return Ok(()),
                () = stop.cancelled() => {
                    return Err(problem(Code::Unavailable, "SHUTTING_DOWN", "the coordinator is shutting down: connect again").into());
                }
                _ = ticks.tick() => {
                    if heard.elapsed() >= interval * SILENCES {
                        let message = format!("nothing came for {:?}: send a Heartbeat at least every {interval:?}", interval * SILENCES);
                        return Err(problem(Code::DeadlineExceeded, "STREAM_SILENT", message).into());
                    }
                    let session = self.session;
                    self.engine.dispatch.with(|hub, _| hub.heartbeat(session));
                }
            }
        }
    }

    /// Takes a message. Gives a result back, with its weight, while there is no room for it.
    fn take(&self, request: ParticipateRequest) -> Result<Option<(pb::Result, u32)>, Status> {
        use participate_request::Message;
        let (dispatch, session) = (&self.engine.dispatch, self.session);
        match request.message {
            Some(Message::Result(result)) => {
                let weight = weight(&result);
                match Arc::clone(&self.room).try_acquire_many_owned(weight) {
                    Ok(room) => self.result(result, room)?,
                    Err(_) => return Ok(Some((result, weight))),
                }
            }
            Some(Message::Credit(credit)) => {
                if credit.commands == 0 || credit.commands > MOST_CREDITS {
                    let message =
                        format!("is {}; 1 to {MOST_CREDITS} are accepted", credit.commands);
                    return Err(ERRORS.invalid_field("credit.commands", message).into());
                }
                dispatch.with(|hub, _| hub.credit(session, credit.commands));
            }
            Some(Message::Heartbeat(beat)) => {
                if beat.lease_token != 0 {
                    dispatch.with(|hub, now| hub.beat(beat.lease_token, now));
                }
            }
            Some(Message::Drain(_)) => dispatch.with(|hub, _| hub.drain_session(session)),
            Some(Message::Hello(_)) => {
                return Err(problem(
                    Code::FailedPrecondition,
                    "HELLO_REPEATED",
                    "Hello came twice: open a new stream instead",
                )
                .into());
            }
            None => {
                return Err(problem(
                    Code::InvalidArgument,
                    "EMPTY_MESSAGE",
                    "a message was empty: set one of its kinds",
                )
                .into());
            }
        }
        Ok(None)
    }

    fn result(&self, mut result: pb::Result, room: OwnedSemaphorePermit) -> Result<(), Status> {
        let (session, token) = (self.session, result.lease_token);
        if let Err(why) = check_result(&mut result, self.engine.options.max_payload_bytes) {
            let taken = self.engine.dispatch.with(|hub, _| {
                let taken = hub.received(session);
                let ack = ResultAck {
                    lease_token: token,
                    status: ResultStatus::Invalid.into(),
                    message: why,
                };
                hub.acknowledge(session, ack);
                taken
            });
            return if taken { Ok(()) } else { Err(not_read()) };
        }
        let reported = self
            .engine
            .dispatch
            .with(|hub, _| hub.received(session).then(|| hub.reported(&result)));
        let Some(reported) = reported else {
            return Err(not_read());
        };
        let stream = match reported {
            Reported::Live(stream) => stream,
            Reported::Unawaited => saga_stream(&result.saga_id),
        };
        let engine = self.engine.clone();
        let saga = stream.clone();
        // For another replica, should it turn out to run the saga.
        let whole = engine.ownership.has_peers().then(|| result.clone());
        let command = self
            .engine
            .command(stream, saga::Command::Result(Box::new(result)), false);
        self.engine.ledger.post_with(command, move |outcome| {
            match (verdict(saga.key(), token, outcome), whole) {
                (Verdict::Settled(ack), _) | (Verdict::Newer(ack), None) => {
                    drop(room);
                    engine.dispatch.with(|hub, _| hub.acknowledge(session, ack));
                }
                (Verdict::Unrecorded, _) => {
                    unrecorded(&engine.dispatch, session, token, storage());
                }
                (_, None) => unrecorded(&engine.dispatch, session, token, moving()),
                (verdict, Some(result)) => {
                    let tasks = engine.tasks.clone();
                    let delivery = deliver(engine, session, result, verdict, room);
                    tasks.spawn("deliver-result", delivery);
                }
            }
        });
        Ok(())
    }
}

/// Brings a result to the replica that runs its saga, and acknowledges it then.
async fn deliver(
    engine: Engine,
    session: SessionId,
    result: pb::Result,
    verdict: Verdict,
    room: OwnedSemaphorePermit,
) {
    let token = result.lease_token;
    let ack = engine.deliver(result, verdict).await;
    drop(room);
    match ack {
        Some(ack) => engine.dispatch.with(|hub, _| hub.acknowledge(session, ack)),
        None => unrecorded(&engine.dispatch, session, token, moving()),
    }
}

/// What a result counts for while it waits to be recorded.
fn weight(result: &pb::Result) -> u32 {
    u32::try_from(result.encoded_len())
        .unwrap_or(u32::MAX)
        .clamp(LEAST_BYTES, MOST_WAITING_BYTES)
}

fn not_read() -> Status {
    let message = "too many acknowledgements wait to be read on this stream: read what comes while sending results";
    problem(Code::ResourceExhausted, "STREAM_NOT_READ", message).into()
}

/// The result is not on record: the stream ends, so that the participant connects again and sends it again.
fn unrecorded(dispatch: &Dispatch, session: SessionId, token: u64, why: Problem) {
    dispatch.with(|hub, _| {
        hub.unreported(token);
        hub.close_session(session);
        hub.end_session(session, End::Refused(why.into()));
    });
}

/// Refuses what makes no sense by itself, and cuts what is too long to keep.
pub(super) fn check_result(result: &mut pb::Result, max_bytes: usize) -> Result<(), String> {
    if !check::is_saga_id(&result.saga_id) {
        return Err(format!("saga_id {}", check::SAGA_ID));
    }
    if result.step.len() > LONGEST_STEP_NAME {
        return Err(format!(
            "step takes {} bytes; at most {LONGEST_STEP_NAME} are accepted",
            result.step.len()
        ));
    }
    match &mut result.outcome {
        None => Err(
            "the result has no outcome: set success, rejection, transient or unknown".to_owned(),
        ),
        Some(Outcome::Success(success)) => match success.output.as_ref().map_or(0, check::size) {
            bytes if bytes > max_bytes => Err(format!(
                "the output takes {bytes} bytes; at most {max_bytes} are accepted: keep large data elsewhere and return a reference"
            )),
            _ => Ok(()),
        },
        Some(
            Outcome::Rejection(failure) | Outcome::Transient(failure) | Outcome::Unknown(failure),
        ) => {
            shorten(failure);
            Ok(())
        }
    }
}

fn shorten(failure: &mut Failure) {
    for (text, most) in [(&mut failure.reason, 63), (&mut failure.message, 1_000)] {
        if let Some((end, _)) = text.char_indices().nth(most) {
            text.truncate(end);
        }
    }
}

/// The writing side of a stream.
pub struct Outbound {
    dispatch: Dispatch,
    session: SessionId,
    /// Messages that were taken already; none of them is a command.
    messages: VecDeque<ParticipateResponse>,
    _gone: DropGuard,
}

impl Stream for Outbound {
    type Item = Result<ParticipateResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = self.messages.pop_front() {
            return Poll::Ready(Some(Ok(message)));
        }
        let this = &mut *self;
        let may_release = this.dispatch.may_release();
        let polled = this.dispatch.quietly(|hub, now| {
            let when = (now, may_release);
            hub.poll_outbox(this.session, &mut this.messages, context.waker(), when)
        });
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(message)) => Poll::Ready(Some(Ok(message))),
            Poll::Ready(Err(End::Finished)) => Poll::Ready(None),
            Poll::Ready(Err(End::Refused(status))) => Poll::Ready(Some(Err(status))),
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let session = self.session;
        self.dispatch.with(|hub, _| hub.forget_session(session));
    }
}
