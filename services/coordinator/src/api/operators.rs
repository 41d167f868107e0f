//! `saga.v1.OperatorService`.

use chassis::{Problem, Violations};
use futures_util::StreamExt as _;
use ledger::StreamId;
use sagamesh_api::saga::v1::operator_service_client::OperatorServiceClient;
use sagamesh_api::saga::v1::operator_service_server::OperatorService;
use sagamesh_api::saga::v1::peer_service_client::PeerServiceClient;
use sagamesh_api::saga::v1::{
    self as pb, ActOnStepsRequest, ActOnStepsResponse, CancelSagaAsOperatorRequest,
    CancelSagasRequest, CancelSagasResponse, Failure, ListParticipantsRequest,
    ListParticipantsResponse, OperatorAction, PauseParticipantRequest, PauseParticipantResponse,
    PutParticipantRequest, PutParticipantResponse, Refused, ResumeParticipantRequest,
    ResumeParticipantResponse, SagaFilter, act_on_steps_request::Target,
};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::{Operators, check, list};
use crate::decider::{Command, PARTICIPANT, Reply, saga_stream};
use crate::engine::{Engine, Unanswered};
use crate::follow;
use crate::forward::{self, Hops};
use crate::problems::{ERRORS, read_failed};
use crate::registry::ParticipantEvent;
use crate::saga;

/// Most sagas that one request acts on.
const AT_MOST: u32 = 100_000;
/// Sagas that are acted on at one time.
const AT_ONCE: usize = 256;

#[tonic::async_trait]
impl OperatorService for Operators {
    async fn act_on_steps(
        &self,
        request: Request<ActOnStepsRequest>,
    ) -> Result<Response<ActOnStepsResponse>, Status> {
        let hops = Hops::of(&request);
        let request = request.into_inner();
        check_act(&request, self.engine.options.max_payload_bytes)?;
        let wish = Wish::Act(request.clone());
        let (saga_ids, refused) = match request.target {
            Some(Target::SagaId(saga_id)) => {
                let acted = wish.ask(&self.engine, &saga_id, hops).await?;
                (acted.then_some(saga_id).into_iter().collect(), Vec::new())
            }
            Some(Target::Filter(filter)) => act_on_all(&self.engine, &filter, &wish).await?,
            None => {
                return Err(ERRORS
                    .invalid_field("target", "is missing: name a saga, or a filter")
                    .into());
            }
        };
        Ok(Response::new(ActOnStepsResponse { saga_ids, refused }))
    }

    async fn cancel_sagas(
        &self,
        request: Request<CancelSagasRequest>,
    ) -> Result<Response<CancelSagasResponse>, Status> {
        let CancelSagasRequest {
            filter,
            operator,
            reason,
        } = request.into_inner();
        let filter = filter.unwrap_or_default();
        let mut found = Violations::new();
        check::filter(&mut found, &filter, true);
        check_who(&mut found, &operator, Some(&reason));
        found.into_result(ERRORS)?;
        let wish = Wish::Cancel(operator, reason);
        let (saga_ids, refused) = act_on_all(&self.engine, &filter, &wish).await?;
        Ok(Response::new(CancelSagasResponse { saga_ids, refused }))
    }

    async fn put_participant(
        &self,
        request: Request<PutParticipantRequest>,
    ) -> Result<Response<PutParticipantResponse>, Status> {
        let PutParticipantRequest {
            name,
            max_concurrency,
        } = request.into_inner();
        let mut found = Violations::new();
        check::name(&mut found, "name", &name);
        found.into_result(ERRORS)?;
        record(
            &self.engine,
            &name,
            ParticipantEvent::Put(pb::ParticipantPut { max_concurrency }),
        )
        .await?;
        let participant = self
            .engine
            .dispatch
            .look(|hub, now| hub.describe_participant(&name, now));
        Ok(Response::new(PutParticipantResponse { participant }))
    }

    async fn list_participants(
        &self,
        _request: Request<ListParticipantsRequest>,
    ) -> Result<Response<ListParticipantsResponse>, Status> {
        let participants = self.engine.dispatch.look(|hub, now| {
            let names = hub.known_participants();
            names
                .iter()
                .filter_map(|name| hub.describe_participant(name, now))
                .collect()
        });
        Ok(Response::new(ListParticipantsResponse { participants }))
    }

    async fn pause_participant(
        &self,
        request: Request<PauseParticipantRequest>,
    ) -> Result<Response<PauseParticipantResponse>, Status> {
        let PauseParticipantRequest {
            name,
            operator,
            reason,
        } = request.into_inner();
        let mut found = Violations::new();
        check::name(&mut found, "name", &name);
        check_who(&mut found, &operator, Some(&reason));
        found.into_result(ERRORS)?;
        known(&self.engine, &name)?;
        record(
            &self.engine,
            &name,
            ParticipantEvent::Paused(pb::ParticipantPaused { operator, reason }),
        )
        .await?;
        Ok(Response::new(PauseParticipantResponse {}))
    }

    async fn resume_participant(
        &self,
        request: Request<ResumeParticipantRequest>,
    ) -> Result<Response<ResumeParticipantResponse>, Status> {
        let ResumeParticipantRequest { name, operator } = request.into_inner();
        let mut found = Violations::new();
        check::name(&mut found, "name", &name);
        check_who(&mut found, &operator, None);
        found.into_result(ERRORS)?;
        known(&self.engine, &name)?;
        record(
            &self.engine,
            &name,
            ParticipantEvent::Resumed(pb::ParticipantResumed { operator }),
        )
        .await?;
        Ok(Response::new(ResumeParticipantResponse {}))
    }
}

fn check_act(request: &ActOnStepsRequest, max_bytes: usize) -> Result<(), Problem> {
    let mut found = Violations::new();
    match &request.target {
        Some(Target::SagaId(saga_id)) => check::saga_id(&mut found, "saga_id", saga_id),
        Some(Target::Filter(filter)) => check::filter(&mut found, filter, true),
        None => found.add("target", "is missing: name a saga, or a filter"),
    }
    if !request.step.is_empty() {
        check::name(&mut found, "step", &request.step);
    }
    if request.action() == OperatorAction::Unspecified {
        found.add(
            "action",
            "is missing: RETRY, SKIP, RESOLVE_SUCCEEDED or RESOLVE_REJECTED",
        );
    }
    check_who(&mut found, &request.operator, Some(&request.reason));
    match &request.output {
        Some(_) if request.action() != OperatorAction::ResolveSucceeded => {
            found.add("output", "is only for RESOLVE_SUCCEEDED")
        }
        Some(output) if check::size(output) > max_bytes => {
            found.add("output", format!("takes more than {max_bytes} bytes"))
        }
        _ => {}
    }
    found.into_result(ERRORS)
}

fn check_who(found: &mut Violations, operator: &str, reason: Option<&str>) {
    check::text(found, "operator", operator, 1, 128);
    if let Some(reason) = reason {
        check::text(found, "reason", reason, 1, 1_000);
    }
}

fn known(engine: &Engine, name: &str) -> Result<(), Problem> {
    if engine.dispatch.look(|hub, _| hub.knows(name)) {
        return Ok(());
    }
    let message =
        format!("participant {name:?} is not known: make it known with PutParticipant first");
    Err(ERRORS.problem(Code::NotFound, "PARTICIPANT_NOT_FOUND", message))
}

async fn record(engine: &Engine, name: &str, event: ParticipantEvent) -> Result<(), Problem> {
    let stream = StreamId::of(PARTICIPANT, name);
    engine
        .change(Command::Participant(stream.clone(), event))
        .await?;
    // What changed nothing may rest on what another replica wrote.
    if engine.ownership.is_shared() {
        let refreshed = follow::refresh(engine, &stream).await;
        refreshed.map_err(|error| read_failed(&error))?;
    }
    Ok(())
}

/// What an operator wants of a saga.
enum Wish {
    Act(ActOnStepsRequest),
    /// Who, and why.
    Cancel(String, String),
}

impl Wish {
    fn command(&self) -> saga::Command {
        match self {
            Wish::Act(request) => saga::Command::Operator {
                step: request.step.clone(),
                action: request.action(),
                operator: request.operator.clone(),
                reason: request.reason.clone(),
                output: request.output.clone(),
            },
            Wish::Cancel(operator, reason) => saga::Command::Cancel {
                requester: operator.clone(),
                reason: reason.clone(),
            },
        }
    }

    /// Asks it of one saga, wherever that runs. Whether it changed something.
    async fn ask(&self, engine: &Engine, saga_id: &str, hops: Hops) -> Result<bool, Status> {
        let asked = engine.ask(saga_stream(saga_id), self.command(), false);
        let shard = match asked.await {
            Ok(reply) => return Ok(matches!(reply, Reply::Saga { changed: true, .. })),
            Err(Unanswered::Elsewhere(shard)) => shard,
            Err(Unanswered::Problem(problem)) => return Err(problem.into()),
        };
        let owner = engine.owner(shard, hops).await?;
        match self {
            Wish::Act(request) => {
                let request = ActOnStepsRequest {
                    target: Some(Target::SagaId(saga_id.to_owned())),
                    ..request.clone()
                };
                let mut client = OperatorServiceClient::new(owner);
                let call = client.act_on_steps(forward::onward(request, hops));
                let acted = engine.forwarded(shard, call).await?.into_inner();
                Ok(!acted.saga_ids.is_empty())
            }
            Wish::Cancel(operator, reason) => {
                let request = CancelSagaAsOperatorRequest {
                    saga_id: saga_id.to_owned(),
                    operator: operator.clone(),
                    reason: reason.clone(),
                };
                let mut client = PeerServiceClient::new(owner);
                let call = client.cancel_saga_as_operator(forward::onward(request, hops));
                Ok(engine.forwarded(shard, call).await?.into_inner().changed)
            }
        }
    }
}

/// Asks the same of every open saga that matches.
async fn act_on_all(
    engine: &Engine,
    filter: &SagaFilter,
    wish: &Wish,
) -> Result<(Vec<String>, Vec<Refused>), Problem> {
    list::catch_up(engine).await?;
    let ids = list::find_open(engine, filter, AT_MOST).await?;
    let asks = ids.into_iter().map(|id| async move {
        let outcome = wish.ask(engine, &id, Hops::default()).await;
        (id, outcome)
    });
    let mut outcomes = futures_util::stream::iter(asks).buffered(AT_ONCE);
    let (mut acted, mut refused) = (Vec::new(), Vec::new());
    while let Some((saga_id, outcome)) = outcomes.next().await {
        match outcome {
            Ok(changed) => acted.extend(changed.then_some(saga_id)),
            Err(status) => {
                let info = status.get_details_error_info();
                let failure = Failure {
                    reason: info.map_or_else(String::new, |info| info.reason),
                    message: status.message().to_owned(),
                    retry_after: None,
                };
                refused.push(Refused {
                    saga_id,
                    failure: Some(failure),
                });
            }
        }
    }
    Ok((acted, refused))
}
