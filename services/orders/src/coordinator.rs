//! The coordinator, as orders sees it.

use std::time::Duration;

use chassis::{Env, PeerChannel, problem};
use sagamesh_api::saga::v1::definition_service_client::DefinitionServiceClient;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{
    CancelSagaRequest, GetSagaRequest, Saga, SagaState, StartSagaRequest,
};
use tonic::{Code, Request, Status};

/// How long the coordinator may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Clients of the coordinator. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Coordinator {
    sagas: SagaServiceClient<PeerChannel>,
    definitions: DefinitionServiceClient<PeerChannel>,
}

/// What came of starting a saga.
#[derive(Debug)]
pub(crate) enum Started {
    /// The coordinator holds it.
    Held,
    /// It refuses this saga for good: why.
    Refused(String),
}

/// What came of cancelling a saga.
#[derive(Debug)]
pub(crate) enum Cancel {
    /// It is being undone, or was.
    Undoing(Box<Saga>),
    /// It has passed its point of no return.
    TooLate,
    /// It has ended.
    Ended,
    /// There is no such saga.
    Unknown,
}

impl Coordinator {
    /// The coordinator at this address; the first one of several with commas between them.
    #[must_use]
    pub fn new(peer: &str, env: &Env) -> Self {
        let first = peer.split(',').next().unwrap_or(peer).trim();
        let channel = chassis::channel(env, first).with_default_deadline(DEADLINE);
        Self {
            sagas: SagaServiceClient::new(channel.clone()),
            definitions: DefinitionServiceClient::new(channel),
        }
    }

    pub(crate) fn definitions(&self) -> DefinitionServiceClient<PeerChannel> {
        self.definitions.clone()
    }

    /// Starts a saga. Safe to repeat.
    pub(crate) async fn start(&self, request: StartSagaRequest) -> Result<Started, Status> {
        match self.sagas.clone().start_saga(timed(request)).await {
            Ok(_) => Ok(Started::Held),
            Err(status) if status.code() == Code::AlreadyExists => {
                tracing::error!("a saga of this order runs with other content: it is left to run");
                Ok(Started::Held)
            }
            Err(status) if status.code() == Code::InvalidArgument => {
                Ok(Started::Refused(status.message().to_owned()))
            }
            Err(status) => Err(status),
        }
    }

    /// Asks for a saga to be undone. Safe to repeat.
    pub(crate) async fn cancel(&self, saga_id: &str, reason: &str) -> Result<Cancel, Status> {
        let request = CancelSagaRequest {
            saga_id: saga_id.to_owned(),
            reason: reason.to_owned(),
        };
        let status = match self.sagas.clone().cancel_saga(timed(request)).await {
            Ok(answer) => {
                return Ok(Cancel::Undoing(Box::new(
                    answer.into_inner().saga.unwrap_or_default(),
                )));
            }
            Err(status) => status,
        };
        match (status.code(), problem::reason(&status).as_deref()) {
            (Code::NotFound, _) => Ok(Cancel::Unknown),
            (Code::FailedPrecondition, Some("PIVOT_DISPATCHED")) => Ok(Cancel::TooLate),
            (Code::FailedPrecondition, Some("SAGA_ENDED")) => Ok(Cancel::Ended),
            _ => Err(status),
        }
    }

    /// The saga as it is; `None` when there is no such saga.
    pub(crate) async fn get(&self, saga_id: &str) -> Result<Option<Saga>, Status> {
        match self
            .sagas
            .clone()
            .get_saga(timed(GetSagaRequest {
                saga_id: saga_id.to_owned(),
            }))
            .await
        {
            Ok(answer) => Ok(answer.into_inner().saga),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }
}

/// Why a saga was undone, when it has ended so: reason and message.
pub(crate) fn undone(saga: &Saga) -> Option<(String, String)> {
    match saga.state() {
        SagaState::Compensated | SagaState::CompensatedWithLeftovers => {}
        SagaState::Unspecified
        | SagaState::Running
        | SagaState::Compensating
        | SagaState::Parked
        | SagaState::Completed => {
            return None;
        }
    }
    let aborted = saga.aborted.clone().unwrap_or_default();
    let failure = aborted.failure.clone().unwrap_or_default();
    let reason = if failure.reason.is_empty() {
        aborted
            .cause()
            .as_str_name()
            .trim_start_matches("ABORT_CAUSE_")
            .to_owned()
    } else {
        failure.reason
    };
    Some((reason, failure.message))
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}
