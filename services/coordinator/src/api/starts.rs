//! Starting sagas: checks, admission, and the wait for the end.

use std::sync::Arc;
use std::time::Duration;

use chassis::{Problem, Violations};
use ledger::StreamId;
use sagamesh_api::saga::v1::{self as pb, StartSagaRequest, StartSagaResponse};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Code;

use super::check;
use crate::decider::{Reply, saga_stream};
use crate::engine::Engine;
use crate::problems::ERRORS;
use crate::saga::{self, Plan, Start};

const LONGEST_WAIT_MILLIS: i64 = 60_000;

/// A start that was checked.
struct Checked {
    stream: StreamId,
    start: Start,
    wait: Option<Duration>,
}

/// Starts a saga, or answers with the one that is there.
pub(super) async fn start(
    engine: &Engine,
    request: StartSagaRequest,
    traceparent: String,
    until: Option<Instant>,
) -> Result<StartSagaResponse, Problem> {
    let checked = match check(engine, request, traceparent)? {
        Ok(checked) => checked,
        Err((stream, start, refused)) => return again(engine, stream, start, refused).await,
    };
    let Checked {
        stream,
        start,
        wait,
    } = checked;
    let admitted = match engine.admit() {
        Ok(admitted) => admitted,
        // Too much is going on: only memory is asked.
        Err(refused) if !engine.is_open(&stream) => return Err(refused),
        Err(refused) => return again(engine, stream, start, refused).await,
    };
    let waiter = wait.map(|wait| Waiter::new(engine, &stream, wait, until));
    let command = saga::Command::Start(Box::new(start));
    let reply = engine
        .ask(stream.clone(), command, waiter.is_none())
        .await?;
    drop(admitted);
    let Reply::Saga { saga, changed } = reply else {
        return Err(ERRORS.problem(
            Code::Internal,
            "MISDIRECTED",
            "the start was answered by something else; this is a bug",
        ));
    };
    let mut saga = match (saga, waiter) {
        (Some(saga), _) => *saga,
        (None, Some(waiter)) => match waiter.end().await {
            Some(saga) => saga,
            None => engine.read(&stream).await?,
        },
        (None, None) => engine.read(&stream).await?,
    };
    engine.explain(&stream, &mut saga);
    Ok(StartSagaResponse {
        saga: Some(saga),
        created: changed,
    })
}

/// A start that is refused now still succeeds if its saga is there already.
async fn again(
    engine: &Engine,
    stream: StreamId,
    start: Start,
    refused: Problem,
) -> Result<StartSagaResponse, Problem> {
    if !engine.is_open(&stream) {
        match engine.read(&stream).await {
            Ok(_) => {}
            Err(problem) if problem.code() == Code::NotFound => return Err(refused),
            Err(problem) => return Err(problem),
        }
    }
    let reply = engine
        .ask(stream.clone(), saga::Command::Start(Box::new(start)), true)
        .await?;
    match reply {
        Reply::Saga {
            saga: Some(mut saga),
            changed,
        } => {
            engine.explain(&stream, &mut saga);
            Ok(StartSagaResponse {
                saga: Some(*saga),
                created: changed,
            })
        }
        _ => Err(refused),
    }
}

type Later = (StreamId, Start, Problem);

/// Checks every field. The inner error is a start that is well formed but refused unless its saga exists.
fn check(
    engine: &Engine,
    request: StartSagaRequest,
    traceparent: String,
) -> Result<Result<Checked, Later>, Problem> {
    let mut found = Violations::new();
    check::saga_id(&mut found, "saga_id", &request.saga_id);
    check::name(&mut found, "definition", &request.definition);
    check::input(&mut found, &request.input, engine.options.max_payload_bytes);
    check::attributes(&mut found, "search_attributes", &request.search_attributes);
    let wait = check::millis(
        &mut found,
        "wait",
        request
            .wait
            .as_ref()
            .filter(|wait| wait.seconds != 0 || wait.nanos != 0),
        Some(LONGEST_WAIT_MILLIS),
    );
    let deadline_millis = check::millis(&mut found, "deadline", request.deadline.as_ref(), None);
    found.into_result(ERRORS)?;
    let (plan, refused) = resolve(engine, &request)?;
    let start = Start {
        plan,
        version_chosen: !request.definition_hash.is_empty(),
        input: request.input,
        search_attributes: request.search_attributes,
        deadline_millis,
        traceparent,
    };
    let stream = saga_stream(&request.saga_id);
    Ok(match refused {
        Some(refused) => Err((stream, start, refused)),
        None => Ok(Checked {
            stream,
            start,
            wait: wait.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))),
        }),
    })
}

/// The version to run, and why new sagas of it are refused, if they are.
fn resolve(
    engine: &Engine,
    request: &StartSagaRequest,
) -> Result<(Arc<Plan>, Option<Problem>), Problem> {
    let name = &request.definition;
    let not_found = || {
        let message =
            format!("no definition named {name:?} is registered: register and activate it first");
        ERRORS.problem(Code::NotFound, "DEFINITION_NOT_FOUND", message)
    };
    engine.registry.with(name, |record| {
        let record = record.ok_or_else(not_found)?;
        let hash = match (&request.definition_hash, &record.active) {
            (hash, _) if !hash.is_empty() => hash,
            (_, Some(active)) => active,
            (_, None) => {
                let message = format!("definition {name:?} has no active version: activate one, or name one by definition_hash");
                return Err(ERRORS.problem(Code::FailedPrecondition, "DEFINITION_NOT_ACTIVE", message));
            }
        };
        let Some(version) = record.find(hash) else {
            let message = format!("definition {name:?} has no version {hash:?}: list its versions");
            return Err(ERRORS.problem(Code::NotFound, "DEFINITION_VERSION_NOT_FOUND", message));
        };
        let refused = record.paused.as_ref().map(|reason| {
            let message = format!("definition {name:?} is paused ({reason}): new sagas are refused until it is resumed");
            ERRORS.problem(Code::FailedPrecondition, "DEFINITION_PAUSED", message)
        });
        Ok((Arc::clone(&version.plan), refused))
    })
}

/// Waits for a saga's end.
struct Waiter {
    engine: Engine,
    stream: StreamId,
    end: oneshot::Receiver<pb::Saga>,
    until: Instant,
}

impl Waiter {
    fn new(engine: &Engine, stream: &StreamId, wait: Duration, until: Option<Instant>) -> Self {
        let end = engine.dispatch.quietly(|hub, _| hub.wait_for_end(stream));
        let wanted = Instant::now() + wait;
        // Early enough before the caller's own deadline to answer with the saga as it is.
        let until = until.map_or(wanted, |until| {
            wanted
                .min(until - ANSWER_BEFORE.min(until.saturating_duration_since(Instant::now()) / 4))
        });
        Self {
            engine: engine.clone(),
            stream: stream.clone(),
            end,
            until,
        }
    }

    async fn end(mut self) -> Option<pb::Saga> {
        tokio::time::timeout_at(self.until, &mut self.end)
            .await
            .ok()?
            .ok()
    }
}

const ANSWER_BEFORE: Duration = Duration::from_millis(250);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.end.close();
        self.engine
            .dispatch
            .quietly(|hub, _| hub.forget_waiters(&self.stream));
    }
}

/// The refusal as a status that travels inside a message.
pub(super) fn as_bytes(status: &tonic::Status) -> Vec<u8> {
    use prost::Message as _;
    let details = status.details();
    if details.is_empty() {
        return Rpc {
            code: status.code().into(),
            message: status.message().to_owned(),
        }
        .encode_to_vec();
    }
    details.to_vec()
}

/// `google.rpc.Status`, for errors without details.
#[derive(Clone, PartialEq, prost::Message)]
struct Rpc {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}
