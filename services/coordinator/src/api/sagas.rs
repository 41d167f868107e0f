//! `saga.v1.SagaService`.

use std::collections::VecDeque;

use chassis::Violations;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::saga_service_server::SagaService;
use sagamesh_api::saga::v1::{
    CancelSagaRequest, CancelSagaResponse, GetSagaRequest, GetSagaResponse, ListSagasRequest,
    ListSagasResponse, SignalSagaRequest, SignalSagaResponse, StartSagaRequest, StartSagaResponse,
    StartSagasRequest, StartSagasResponse, WatchSagaRequest, start_sagas_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Responses, Sagas, check, list, starts, watch};
use crate::decider::{Reply, saga_stream};
use crate::engine::{Engine, Unanswered};
use crate::forward::{self, Hops};
use crate::problems::ERRORS;
use crate::saga;

/// Starts of one stream that are under way at one time.
const STARTS_AT_ONCE: usize = 1_024;

#[tonic::async_trait]
impl SagaService for Sagas {
    async fn start_saga(
        &self,
        request: Request<StartSagaRequest>,
    ) -> Result<Response<StartSagaResponse>, Status> {
        let traceparent = chassis::trace::current().unwrap_or_default();
        let until = chassis::deadline::current();
        let hops = Hops::of(&request);
        let request = request.into_inner();
        let response = starts::start(&self.engine, request, (traceparent, until), hops).await?;
        Ok(Response::new(response))
    }

    type StartSagasStream = Responses<StartSagasResponse>;

    async fn start_sagas(
        &self,
        request: Request<Streaming<StartSagasRequest>>,
    ) -> Result<Response<Self::StartSagasStream>, Status> {
        let traceparent = chassis::trace::current().unwrap_or_default();
        let (answers, receiver) = mpsc::channel(64);
        self.engine.tasks.spawn(
            "start-sagas",
            start_many(
                self.engine.clone(),
                request.into_inner(),
                traceparent,
                answers,
            ),
        );
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_saga(
        &self,
        request: Request<GetSagaRequest>,
    ) -> Result<Response<GetSagaResponse>, Status> {
        let hops = Hops::of(&request);
        let request = request.into_inner();
        let mut found = Violations::new();
        check::saga_id(&mut found, "saga_id", &request.saga_id);
        found.into_result(ERRORS)?;
        let saga = self.engine.show(&request.saga_id, hops).await?;
        Ok(Response::new(GetSagaResponse { saga: Some(saga) }))
    }

    async fn list_sagas(
        &self,
        request: Request<ListSagasRequest>,
    ) -> Result<Response<ListSagasResponse>, Status> {
        Ok(Response::new(
            list::list(&self.engine, request.into_inner()).await?,
        ))
    }

    type WatchSagaStream = watch::Watching;

    async fn watch_saga(
        &self,
        request: Request<WatchSagaRequest>,
    ) -> Result<Response<Self::WatchSagaStream>, Status> {
        Ok(Response::new(
            watch::watch(&self.engine, request.into_inner()).await?,
        ))
    }

    async fn cancel_saga(
        &self,
        request: Request<CancelSagaRequest>,
    ) -> Result<Response<CancelSagaResponse>, Status> {
        let hops = Hops::of(&request);
        let CancelSagaRequest { saga_id, reason } = request.into_inner();
        let mut found = Violations::new();
        check::saga_id(&mut found, "saga_id", &saga_id);
        check::text(&mut found, "reason", &reason, 0, 1_000);
        found.into_result(ERRORS)?;
        let stream = saga_stream(&saga_id);
        let command = saga::Command::Cancel {
            requester: "client".to_owned(),
            reason: reason.clone(),
        };
        match self.engine.ask(stream.clone(), command, false).await {
            Ok(_) => {}
            Err(Unanswered::Elsewhere(shard)) => {
                let owner = self.engine.owner(shard, hops).await?;
                let mut client =
                    SagaServiceClient::new(owner).max_decoding_message_size(forward::MOST_BYTES);
                let request = CancelSagaRequest { saga_id, reason };
                let call = client.cancel_saga(forward::onward(request, hops));
                return self.engine.forwarded(shard, call).await;
            }
            Err(Unanswered::Problem(problem)) => return Err(problem.into()),
        }
        let saga = self.engine.read(&stream).await?;
        Ok(Response::new(CancelSagaResponse { saga: Some(saga) }))
    }

    async fn signal_saga(
        &self,
        request: Request<SignalSagaRequest>,
    ) -> Result<Response<SignalSagaResponse>, Status> {
        let hops = Hops::of(&request);
        let SignalSagaRequest {
            saga_id,
            name,
            signal_id,
            payload,
        } = request.into_inner();
        let mut found = Violations::new();
        check::saga_id(&mut found, "saga_id", &saga_id);
        check::name(&mut found, "name", &name);
        check::text(&mut found, "signal_id", &signal_id, 1, 128);
        let (bytes, most) = (
            payload.as_ref().map_or(0, check::size),
            self.engine.options.max_payload_bytes,
        );
        if bytes > most {
            found.add("payload", format!("takes {bytes} bytes; at most {most} are accepted: keep large data elsewhere and pass a reference"));
        }
        found.into_result(ERRORS)?;
        let command = saga::Command::Signal {
            name: name.clone(),
            signal_id: signal_id.clone(),
            payload: payload.clone(),
        };
        let asked = self.engine.ask(saga_stream(&saga_id), command, false).await;
        let reply = match asked {
            Ok(reply) => reply,
            Err(Unanswered::Elsewhere(shard)) => {
                let mut client = SagaServiceClient::new(self.engine.owner(shard, hops).await?);
                let request = SignalSagaRequest {
                    saga_id,
                    name,
                    signal_id,
                    payload,
                };
                let call = client.signal_saga(forward::onward(request, hops));
                return self.engine.forwarded(shard, call).await;
            }
            Err(Unanswered::Problem(problem)) => return Err(problem.into()),
        };
        Ok(Response::new(SignalSagaResponse {
            accepted: matches!(reply, Reply::Saga { changed: true, .. }),
        }))
    }
}

/// Serves one stream of starts until its client closes it and every start was answered.
async fn start_many(
    engine: Engine,
    mut requests: impl Stream<Item = Result<StartSagasRequest, Status>> + Unpin,
    traceparent: String,
    answers: mpsc::Sender<Result<StartSagasResponse, Status>>,
) {
    let draining = engine.tasks.draining();
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    // Answers that the client has no room for. Starts under way go on meanwhile: they hold places that all clients share.
    let mut ready = VecDeque::new();
    while open || !under_way.is_empty() || !ready.is_empty() {
        tokio::select! {
            biased;
            room = answers.reserve(), if !ready.is_empty() => match (room, ready.pop_front()) {
                (Ok(room), Some(answer)) => room.send(Ok(answer)),
                _ => return,
            },
            Some(answer) = under_way.next() => ready.push_back(answer),
            request = requests.next(), if open && under_way.len() + ready.len() < STARTS_AT_ONCE => match request {
                Some(Ok(request)) => under_way.push(start_one(&engine, request, traceparent.clone())),
                None | Some(Err(_)) => open = false,
            },
            () = draining.cancelled(), if open => open = false,
            () = answers.closed() => return,
        }
    }
}

async fn start_one(
    engine: &Engine,
    request: StartSagasRequest,
    traceparent: String,
) -> StartSagasResponse {
    let outcome = match request.start {
        Some(start) => starts::start(engine, start, (traceparent, None), Hops::default()).await,
        None => Err(ERRORS
            .invalid_field("start", "is missing: say what to start")
            .into()),
    };
    let result = match outcome {
        Ok(started) => start_sagas_response::Result::Started(started),
        Err(status) => {
            if status.code() == Code::Internal {
                tracing::error!(%status, "a start failed");
            }
            start_sagas_response::Result::Error(starts::as_bytes(&status))
        }
    };
    StartSagasResponse {
        correlation_id: request.correlation_id,
        result: Some(result),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use chassis::Process;
    use sagamesh_api::saga::v1::{Call, Definition, Phase, StartSagaRequest, Step, step};

    use super::*;
    use crate::decider::{Command, DEFINITION};
    use crate::registry::DefinitionChange;
    use crate::{Config, Options};

    fn definition() -> Definition {
        let call = Call {
            participant: "a".to_owned(),
            action: "one.do".to_owned(),
            compensation: "one.undo".to_owned(),
            ..Call::default()
        };
        Definition {
            name: "order".to_owned(),
            steps: vec![Step {
                name: "one".to_owned(),
                phase: Phase::Compensatable.into(),
                kind: Some(step::Kind::Call(call)),
                ..Step::default()
            }],
            ..Definition::default()
        }
    }

    fn start(number: usize) -> Result<StartSagasRequest, Status> {
        Ok(StartSagasRequest {
            start: Some(StartSagaRequest {
                saga_id: format!("s-{number}"),
                definition: "order".to_owned(),
                definition_hash: saga::hash(&saga::normalise(&definition())),
                ..StartSagaRequest::default()
            }),
            ..StartSagasRequest::default()
        })
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_no_place_of_others() {
        let dir = tempfile::tempdir().expect("a folder");
        let process = Process::for_test("coordinator");
        let options = Options {
            participants: vec!["a".to_owned()],
            max_waiting_starts: 4,
            ..Options::default()
        };
        let config = Config {
            chassis: process.config.clone(),
            store: ledger::StoreConfig::sqlite(dir.path(), "coordinator"),
            options,
        };
        let crate::Opened { engine, ledger, .. } =
            crate::open(&config, &process).await.expect("open");
        let plan = saga::Plan::compile(&definition()).expect("a valid definition");
        let change = DefinitionChange::Register(Arc::new(plan));
        let stream = ledger::StreamId::of(DEFINITION, "order");
        engine
            .change(Command::Definition(stream, change))
            .await
            .expect("registered");
        // Only one answer fits, and nobody reads it.
        let (answers, unread) = mpsc::channel(1);
        let requests =
            futures_util::stream::iter((0..4).map(start)).chain(futures_util::stream::pending());
        let serving = tokio::spawn(start_many(engine.clone(), requests, String::new(), answers));
        tokio::time::timeout(Duration::from_secs(20), async {
            while engine.dispatch.look(|hub, _| hub.open_sagas()) < 4 {
                tokio::task::yield_now().await;
            }
            let mut places = Vec::new();
            while places.len() < 4 {
                places.clear();
                places.extend((0..4).map_while(|_| engine.admit(0).ok()));
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("every place is free again");
        drop(unread);
        serving.await.expect("ended");
        drop(engine);
        process
            .tasks
            .shutdown(Duration::from_secs(5))
            .await
            .expect("stopped");
        ledger.close().await;
    }
}
