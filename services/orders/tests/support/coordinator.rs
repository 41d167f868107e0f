use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use sagamesh_api::saga::v1::definition_service_server::{
    DefinitionService, DefinitionServiceServer,
};
use sagamesh_api::saga::v1::participant_service_server::{
    ParticipantService, ParticipantServiceServer,
};
use sagamesh_api::saga::v1::saga_service_server::{SagaService, SagaServiceServer};
use sagamesh_api::saga::v1::{
    AbortCause, Aborted, ActivateDefinitionRequest, ActivateDefinitionResponse, CancelSagaRequest,
    CancelSagaResponse, Command, Definition, DefinitionVersion, DeleteDefinitionRequest,
    DeleteDefinitionResponse, Direction, GetDefinitionRequest, GetDefinitionResponse,
    GetSagaRequest, GetSagaResponse, ListDefinitionsRequest, ListDefinitionsResponse,
    ListSagasRequest, ListSagasResponse, ParticipateRequest, ParticipateResponse,
    PauseDefinitionRequest, PauseDefinitionResponse, RegisterDefinitionRequest,
    RegisterDefinitionResponse, ResultAck, ResultStatus, ResumeDefinitionRequest,
    ResumeDefinitionResponse, Saga, SagaState, SignalSagaRequest, SignalSagaResponse,
    StartSagaRequest, StartSagaResponse, StartSagasRequest, StartSagasResponse, Value,
    WatchSagaRequest, WatchSagaResponse, Welcome, participate_request, participate_response,
    result, value,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::PATIENCE;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A saga as the fake holds it.
#[derive(Clone, Debug)]
pub struct FakeSaga {
    pub definition: String,
    pub input: BTreeMap<String, Value>,
    pub traceparent: Option<String>,
    /// How often StartSaga came for it.
    pub starts: u32,
    pub cancels: u32,
    pub saga: Saga,
}

#[derive(Default)]
pub struct State {
    pub sagas: BTreeMap<String, FakeSaga>,
    pub definitions: Vec<DefinitionVersion>,
    /// StartSaga, CancelSaga and GetSaga fail.
    pub sagas_down: bool,
    /// The definitions' service fails.
    pub definitions_down: bool,
    /// StartSaga refuses for good.
    pub refuses: bool,
    /// CancelSaga says PIVOT_DISPATCHED.
    pub too_late: bool,
    /// Calls of StartSaga, also those that failed.
    pub start_calls: u32,
    pub activations: u32,
    participants: Vec<mpsc::UnboundedSender<Participate>>,
}

type Participate = (Command, mpsc::UnboundedSender<result::Outcome>);

/// A coordinator: remembers sagas, and runs only the steps that tests ask for.
#[derive(Clone)]
pub struct FakeCoordinator {
    address: String,
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

impl FakeCoordinator {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let fake = Self {
            address,
            state: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
        };
        let server = tonic::transport::Server::builder()
            .add_service(SagaServiceServer::new(fake.clone()))
            .add_service(DefinitionServiceServer::new(fake.clone()))
            .add_service(ParticipantServiceServer::new(fake.clone()));
        tokio::spawn(async move {
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("served")
        });
        fake
    }

    pub fn url(&self) -> String {
        self.address.clone()
    }

    /// Changes what it does, or looks at what it saw.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let answer = look(&mut self.state.lock().unwrap());
        self.changed.send_modify(|count| *count += 1);
        answer
    }

    /// Waits until something is so.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let seen = async {
            loop {
                if let Some(seen) = look(&self.state.lock().unwrap()) {
                    return seen;
                }
                changed.changed().await.expect("the fake lives");
            }
        };
        tokio::time::timeout(PATIENCE, seen)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"))
    }

    /// Waits until this saga was started.
    pub async fn started(&self, saga_id: &str) -> FakeSaga {
        self.until("the saga is started", |state| {
            state.sagas.get(saga_id).cloned()
        })
        .await
    }

    /// Runs a step of an order at the participant `orders`.
    pub async fn step(&self, step: Orders<'_>) -> Result<(), (String, String)> {
        let stream = self
            .until("orders takes part", |state| {
                state
                    .participants
                    .iter()
                    .rfind(|stream| !stream.is_closed())
                    .cloned()
            })
            .await;
        let (answer, mut outcomes) = mpsc::unbounded_channel();
        stream.send((step.command(), answer)).expect("connected");
        let outcome = tokio::time::timeout(PATIENCE, outcomes.recv())
            .await
            .expect("a result")
            .expect("a result");
        match outcome {
            result::Outcome::Success(_) => Ok(()),
            result::Outcome::Rejection(failure) => Err(("rejected".to_owned(), failure.reason)),
            result::Outcome::Transient(failure) => Err(("transient".to_owned(), failure.reason)),
            result::Outcome::Unknown(failure) => Err(("unknown".to_owned(), failure.reason)),
        }
    }
}

/// A step for orders to do.
#[derive(Clone, Copy)]
pub struct Orders<'a> {
    pub action: &'a str,
    pub step: &'a str,
    pub saga_id: &'a str,
    pub order_id: &'a str,
    pub compensation: bool,
    pub reason: (&'a str, &'a str),
}

impl<'a> Orders<'a> {
    pub fn lock(order_id: &'a str) -> Self {
        Self {
            action: "orders.LockOrder",
            step: "create-order",
            saga_id: order_id,
            order_id,
            compensation: false,
            reason: ("", ""),
        }
    }

    pub fn reject(order_id: &'a str, reason: &'a str, message: &'a str) -> Self {
        Self {
            action: "orders.RejectOrder",
            compensation: true,
            reason: (reason, message),
            ..Self::lock(order_id)
        }
    }

    pub fn confirm(order_id: &'a str) -> Self {
        Self {
            action: "orders.ConfirmOrder",
            step: "confirm-order",
            ..Self::lock(order_id)
        }
    }

    pub fn refunded(order_id: &'a str, saga_id: &'a str) -> Self {
        Self {
            action: "orders.MarkRefunded",
            step: "close-order",
            saga_id,
            ..Self::lock(order_id)
        }
    }

    fn command(&self) -> Command {
        let mut fields = vec![("order_id", self.order_id), ("customer_id", "alice")];
        if self.compensation {
            fields.extend([
                ("saga.abort_reason", self.reason.0),
                ("saga.abort_message", self.reason.1),
            ]);
        }
        let direction = if self.compensation {
            Direction::Compensation
        } else {
            Direction::Action
        };
        Command {
            lease_token: rand_token(),
            saga_id: self.saga_id.to_owned(),
            step: self.step.to_owned(),
            direction: direction.into(),
            action: self.action.to_owned(),
            attempt: 1,
            timeout: Some(prost_types::Duration {
                seconds: 10,
                nanos: 0,
            }),
            input: fields
                .into_iter()
                .map(|(name, text)| {
                    (
                        name.to_owned(),
                        Value {
                            kind: Some(value::Kind::Text(text.to_owned())),
                        },
                    )
                })
                .collect(),
            ..Command::default()
        }
    }
}

fn rand_token() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// A saga that ended undone.
pub fn undone(saga: &mut Saga, cause: AbortCause) {
    saga.state = SagaState::Compensated.into();
    saga.aborted = Some(Aborted {
        cause: cause.into(),
        step: String::new(),
        failure: None,
    });
}

fn refusal(code: Code, reason: &'static str) -> Status {
    chassis::Domain("saga.sagamesh")
        .problem(code, reason, "refused by the test")
        .into()
}

#[tonic::async_trait]
impl SagaService for FakeCoordinator {
    async fn start_saga(
        &self,
        request: Request<StartSagaRequest>,
    ) -> Result<Response<StartSagaResponse>, Status> {
        let traceparent = request
            .metadata()
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let request = request.into_inner();
        self.with(|state| {
            state.start_calls += 1;
            if state.sagas_down {
                return Err(Status::unavailable("down"));
            }
            if state.refuses {
                return Err(refusal(Code::InvalidArgument, "PAYLOAD_TOO_LARGE"));
            }
            let saga = Saga {
                saga_id: request.saga_id.clone(),
                definition: request.definition.clone(),
                state: SagaState::Running.into(),
                ..Saga::default()
            };
            let known = state
                .sagas
                .entry(request.saga_id)
                .or_insert_with(|| FakeSaga {
                    definition: request.definition.clone(),
                    input: request.input.clone(),
                    traceparent,
                    starts: 0,
                    cancels: 0,
                    saga,
                });
            known.starts += 1;
            if known.input != request.input {
                return Err(refusal(Code::AlreadyExists, "SAGA_ID_REUSED"));
            }
            Ok(Response::new(StartSagaResponse {
                saga: Some(known.saga.clone()),
                created: known.starts == 1,
            }))
        })
    }

    type StartSagasStream = BoxStream<StartSagasResponse>;

    async fn start_sagas(
        &self,
        _: Request<Streaming<StartSagasRequest>>,
    ) -> Result<Response<Self::StartSagasStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_saga(
        &self,
        request: Request<GetSagaRequest>,
    ) -> Result<Response<GetSagaResponse>, Status> {
        self.with(|state| {
            if state.sagas_down {
                return Err(Status::unavailable("down"));
            }
            let saga = state
                .sagas
                .get(&request.get_ref().saga_id)
                .ok_or_else(|| refusal(Code::NotFound, "SAGA_NOT_FOUND"))?;
            Ok(Response::new(GetSagaResponse {
                saga: Some(saga.saga.clone()),
            }))
        })
    }

    async fn list_sagas(
        &self,
        _: Request<ListSagasRequest>,
    ) -> Result<Response<ListSagasResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchSagaStream = BoxStream<WatchSagaResponse>;

    async fn watch_saga(
        &self,
        _: Request<WatchSagaRequest>,
    ) -> Result<Response<Self::WatchSagaStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cancel_saga(
        &self,
        request: Request<CancelSagaRequest>,
    ) -> Result<Response<CancelSagaResponse>, Status> {
        self.with(|state| {
            if state.sagas_down {
                return Err(Status::unavailable("down"));
            }
            let too_late = state.too_late;
            let saga = state
                .sagas
                .get_mut(&request.get_ref().saga_id)
                .ok_or_else(|| refusal(Code::NotFound, "SAGA_NOT_FOUND"))?;
            saga.cancels += 1;
            if too_late {
                return Err(refusal(Code::FailedPrecondition, "PIVOT_DISPATCHED"));
            }
            match saga.saga.state() {
                SagaState::Running | SagaState::Compensating => {
                    saga.saga.state = SagaState::Compensating.into()
                }
                _ => return Err(refusal(Code::FailedPrecondition, "SAGA_ENDED")),
            }
            Ok(Response::new(CancelSagaResponse {
                saga: Some(saga.saga.clone()),
            }))
        })
    }

    async fn signal_saga(
        &self,
        _: Request<SignalSagaRequest>,
    ) -> Result<Response<SignalSagaResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl DefinitionService for FakeCoordinator {
    async fn register_definition(
        &self,
        request: Request<RegisterDefinitionRequest>,
    ) -> Result<Response<RegisterDefinitionResponse>, Status> {
        let definition: Definition = request.into_inner().definition.unwrap_or_default();
        self.with(|state| {
            if state.definitions_down {
                return Err(Status::unavailable("down"));
            }
            let hash = format!("{}/{}", definition.name, definition.description);
            if let Some(known) = state.definitions.iter().find(|known| known.hash == hash) {
                return Ok(Response::new(RegisterDefinitionResponse {
                    version: Some(known.clone()),
                }));
            }
            let version = DefinitionVersion {
                definition: Some(definition),
                hash,
                ..DefinitionVersion::default()
            };
            state.definitions.push(version.clone());
            Ok(Response::new(RegisterDefinitionResponse {
                version: Some(version),
            }))
        })
    }

    async fn activate_definition(
        &self,
        request: Request<ActivateDefinitionRequest>,
    ) -> Result<Response<ActivateDefinitionResponse>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            let named = |version: &DefinitionVersion| {
                version
                    .definition
                    .as_ref()
                    .is_some_and(|found| found.name == request.name)
            };
            let active = state
                .definitions
                .iter()
                .find(|version| named(version) && version.active);
            if active.map_or("", |active| active.hash.as_str()) != request.expected_active_hash {
                return Err(refusal(Code::Aborted, "ACTIVE_VERSION_CHANGED"));
            }
            state.activations += 1;
            let mut answer = None;
            for version in state
                .definitions
                .iter_mut()
                .filter(|version| named(version))
            {
                version.active = version.hash == request.hash;
                if version.active {
                    answer = Some(version.clone());
                }
            }
            Ok(Response::new(ActivateDefinitionResponse {
                version: answer,
            }))
        })
    }

    async fn get_definition(
        &self,
        request: Request<GetDefinitionRequest>,
    ) -> Result<Response<GetDefinitionResponse>, Status> {
        self.with(|state| {
            let name = &request.get_ref().name;
            let active = state.definitions.iter().find(|version| {
                version.active
                    && version
                        .definition
                        .as_ref()
                        .is_some_and(|definition| definition.name == *name)
            });
            let version = active
                .cloned()
                .ok_or_else(|| refusal(Code::NotFound, "DEFINITION_NOT_FOUND"))?;
            Ok(Response::new(GetDefinitionResponse {
                version: Some(version),
            }))
        })
    }

    async fn list_definitions(
        &self,
        _: Request<ListDefinitionsRequest>,
    ) -> Result<Response<ListDefinitionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn pause_definition(
        &self,
        _: Request<PauseDefinitionRequest>,
    ) -> Result<Response<PauseDefinitionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn resume_definition(
        &self,
        _: Request<ResumeDefinitionRequest>,
    ) -> Result<Response<ResumeDefinitionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_definition(
        &self,
        _: Request<DeleteDefinitionRequest>,
    ) -> Result<Response<DeleteDefinitionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl ParticipantService for FakeCoordinator {
    type ParticipateStream = BoxStream<ParticipateResponse>;

    async fn participate(
        &self,
        request: Request<Streaming<ParticipateRequest>>,
    ) -> Result<Response<Self::ParticipateStream>, Status> {
        let mut inbound = request.into_inner();
        let (outbox, responses) = mpsc::unbounded_channel();
        let (commands, mut todo) = mpsc::unbounded_channel::<Participate>();
        let send = move |message| {
            drop(outbox.send(Ok(ParticipateResponse {
                message: Some(message),
            })))
        };
        send(participate_response::Message::Welcome(Welcome {
            coordinator: "fake".to_owned(),
            heartbeat_interval: Some(prost_types::Duration {
                seconds: 5,
                nanos: 0,
            }),
            max_payload_bytes: 1 << 20,
            peers: Vec::new(),
            protocol_version: 0,
        }));
        self.with(|state| state.participants.push(commands));
        let this = self.clone();
        tokio::spawn(async move {
            let mut waiting = BTreeMap::new();
            loop {
                tokio::select! {
                    Some((command, answer)) = todo.recv() => {
                        waiting.insert(command.lease_token, answer);
                        send(participate_response::Message::Command(command));
                    }
                    message = inbound.message() => match message {
                        Ok(Some(ParticipateRequest { message: Some(participate_request::Message::Result(result)) })) => {
                            send(participate_response::Message::ResultAck(ResultAck {
                                lease_token: result.lease_token,
                                status: ResultStatus::Accepted.into(),
                                message: String::new(),
                            }));
                            if let (Some(answer), Some(outcome)) = (waiting.remove(&result.lease_token), result.outcome) {
                                drop(answer.send(outcome));
                            }
                        }
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    },
                }
            }
            drop(todo);
            this.with(|state| state.participants.retain(|stream| !stream.is_closed()));
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            responses,
        ))))
    }
}
