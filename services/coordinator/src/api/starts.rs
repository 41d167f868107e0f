//! Starting sagas: checks, admission, and the wait for the end.

use std::sync::Arc;
use std::time::Duration;

use chassis::{Problem, Violations};
use ledger::StreamId;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{StartSagaRequest, StartSagaResponse};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::ends::Waiter;
use super::{check, ends};
use crate::decider::{DEFINITION, Reply, saga_stream};
use crate::engine::{Engine, Unanswered};
use crate::follow;
use crate::forward::{self, Hops};
use crate::problems::{ERRORS, read_failed};
use crate::saga::{self, Plan, Start};

const LONGEST_WAIT_MILLIS: i64 = 60_000;

/// A start that was checked.
struct Checked {
    stream: StreamId,
    start: Start,
    wait: Option<Duration>,
}

/// Starts a saga, or answers with the one that is there. It goes into this replica's own shard; without one, another replica starts it.
pub(super) async fn start(
    engine: &Engine,
    request: StartSagaRequest,
    (traceparent, until): (String, Option<Instant>),
    hops: Hops,
) -> Result<StartSagaResponse, Status> {
    let Some(home) = engine.ownership.home() else {
        let owner = engine.starter(hops).await?;
        return elsewhere(engine, (None, owner), request, hops).await;
    };
    let whole = engine.ownership.has_peers().then(|| request.clone());
    let checked = match check(engine, request, traceparent, home).await? {
        Ok(checked) => checked,
        Err((stream, start, refused)) => {
            return Ok(again(engine, stream, start, refused).await?);
        }
    };
    let Checked {
        stream,
        start,
        wait,
    } = checked;
    let bytes = start.input.values().map(prost::Message::encoded_len).sum();
    let admitted = match engine.admit(bytes) {
        Ok(admitted) => admitted,
        // Too much is going on: only memory is asked.
        Err(refused) if !engine.is_open(&stream) => return Err(refused.into()),
        Err(refused) => return Ok(again(engine, stream, start, refused).await?),
    };
    let waiter = wait.map(|wait| Waiter::new(engine, &stream, wait, until));
    let command = saga::Command::Start(Box::new(start));
    let asked = engine.ask(stream.clone(), command, waiter.is_none()).await;
    drop(admitted);
    let reply = match (asked, whole.as_ref()) {
        (Ok(reply), _) => reply,
        (Err(Unanswered::Elsewhere(shard)), Some(whole)) => {
            let owner = engine.owner(shard, hops).await?;
            return elsewhere(engine, (Some(shard), owner), whole.clone(), hops).await;
        }
        (Err(unanswered), _) => return Err(Problem::from(unanswered).into()),
    };
    let Reply::Saga { saga, changed } = reply else {
        return Err(ERRORS
            .problem(
                Code::Internal,
                "MISDIRECTED",
                "the start was answered by something else; this is a bug",
            )
            .into());
    };
    let mut saga = match (saga, waiter) {
        (Some(saga), _) => *saga,
        (None, Some(waiter)) => ends::end(engine, waiter, (changed, whole), hops).await?,
        (None, None) => engine.read(&stream).await?,
    };
    engine.explain(&stream, &mut saga);
    Ok(StartSagaResponse {
        saga: Some(saga),
        created: changed,
    })
}

/// Lets another replica start a saga, or answer for the one that it runs.
pub(super) async fn elsewhere(
    engine: &Engine,
    (shard, owner): (Option<i64>, chassis::PeerChannel),
    request: StartSagaRequest,
    hops: Hops,
) -> Result<StartSagaResponse, Status> {
    let mut client = SagaServiceClient::new(owner).max_decoding_message_size(forward::MOST_BYTES);
    let mut request = forward::onward(request, hops);
    if let Some(wait) = request.get_ref().wait.as_ref()
        && chassis::deadline::current().is_none()
    {
        let wait = Duration::try_from(*wait).unwrap_or_default();
        request.set_timeout(wait + chassis::channel::DEFAULT_DEADLINE);
    }
    let call = client.start_saga(request);
    // A saga that is started there belongs to no shard of which it is known who owns it.
    let shard = shard.unwrap_or(i64::MIN);
    Ok(engine.forwarded(shard, call).await?.into_inner())
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
async fn check(
    engine: &Engine,
    request: StartSagaRequest,
    traceparent: String,
    shard: i64,
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
    let (plan, refused) = match resolve(engine, &request) {
        // It may have been registered or activated on another replica a moment ago.
        Err(_) if engine.ownership.is_shared() => {
            let stream = StreamId::of(DEFINITION, &request.definition);
            let refreshed = follow::refresh(engine, &stream).await;
            refreshed.map_err(|error| read_failed(&error))?;
            resolve(engine, &request)?
        }
        resolved => resolved?,
    };
    // The saga outlives this request, so it is a span of its own.
    let (traceparent, parent_span_id) =
        match chassis::trace::announce(&traceparent, &*engine.env.entropy) {
            Some(announced) => announced,
            None => (traceparent, 0),
        };
    let start = Start {
        plan,
        version_chosen: !request.definition_hash.is_empty(),
        input: request.input,
        search_attributes: request.search_attributes,
        deadline_millis,
        traceparent,
        parent_span_id,
        shard,
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
