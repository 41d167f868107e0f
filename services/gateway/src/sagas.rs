//! The caller's own sagas, read only: an order is carried out by the saga of the same id.
//!
//! Sagas are started, signalled and cancelled by the services that own them, never from outside; their history holds what the steps were given, so
//! it is not shown here either.

use futures_util::stream::BoxStream;
use sagamesh_api::saga::v1::saga_service_server::SagaService;
use sagamesh_api::saga::v1::{
    CancelSagaRequest, CancelSagaResponse, GetSagaRequest, GetSagaResponse, ListSagasRequest,
    ListSagasResponse, SignalSagaRequest, SignalSagaResponse, StartSagaRequest, StartSagaResponse,
    StartSagasRequest, StartSagasResponse, WatchSagaRequest, WatchSagaResponse,
};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::ERRORS;
use crate::gateway::Gateway;
use crate::grpc::caller;

/// What is not offered, and where it is.
fn elsewhere<T>() -> Result<Response<T>, Status> {
    let text = "the gateway offers GetSaga of your own orders alone: operators use the coordinator itself (`sagamesh saga`)";
    Err(ERRORS
        .problem(Code::Unimplemented, "NOT_AT_THE_GATEWAY", text)
        .into())
}

#[tonic::async_trait]
impl SagaService for Gateway {
    async fn get_saga(
        &self,
        request: Request<GetSagaRequest>,
    ) -> Result<Response<GetSagaResponse>, Status> {
        let caller = caller(&request, "orders:read")?;
        let (metadata, _, message) = request.into_parts();
        self.own_order(&message.saga_id, &caller).await?;
        self.backends
            .sagas
            .clone()
            .get_saga(self.onward(&metadata, message))
            .await
    }

    async fn start_saga(
        &self,
        _: Request<StartSagaRequest>,
    ) -> Result<Response<StartSagaResponse>, Status> {
        elsewhere()
    }

    type StartSagasStream = BoxStream<'static, Result<StartSagasResponse, Status>>;

    async fn start_sagas(
        &self,
        _: Request<Streaming<StartSagasRequest>>,
    ) -> Result<Response<Self::StartSagasStream>, Status> {
        elsewhere()
    }

    async fn list_sagas(
        &self,
        _: Request<ListSagasRequest>,
    ) -> Result<Response<ListSagasResponse>, Status> {
        elsewhere()
    }

    type WatchSagaStream = BoxStream<'static, Result<WatchSagaResponse, Status>>;

    async fn watch_saga(
        &self,
        _: Request<WatchSagaRequest>,
    ) -> Result<Response<Self::WatchSagaStream>, Status> {
        elsewhere()
    }

    async fn cancel_saga(
        &self,
        _: Request<CancelSagaRequest>,
    ) -> Result<Response<CancelSagaResponse>, Status> {
        elsewhere()
    }

    async fn signal_saga(
        &self,
        _: Request<SignalSagaRequest>,
    ) -> Result<Response<SignalSagaResponse>, Status> {
        elsewhere()
    }
}
