//! A SagaService that answers before it knows, or leaves out an event: around the real one.

use coordinator::api::Sagas;
use sagamesh_api::saga::v1::saga_service_server::SagaService;
use sagamesh_api::saga::v1::{
    CancelSagaRequest, CancelSagaResponse, GetSagaRequest, GetSagaResponse, ListSagasRequest,
    ListSagasResponse, SignalSagaRequest, SignalSagaResponse, StartSagaRequest, StartSagaResponse,
    StartSagasRequest, WatchSagaRequest,
};
use tonic::{Request, Response, Status, Streaming};

/// See the module's documentation.
pub struct Hasty {
    inner: Sagas,
    acknowledges: bool,
}

impl Hasty {
    /// Answers starts at once, if it `acknowledges`; otherwise watchers that come back miss an event.
    pub fn new(inner: Sagas, acknowledges: bool) -> Self {
        Self {
            inner,
            acknowledges,
        }
    }
}

#[tonic::async_trait]
impl SagaService for Hasty {
    type StartSagasStream = <Sagas as SagaService>::StartSagasStream;
    type WatchSagaStream = <Sagas as SagaService>::WatchSagaStream;

    async fn start_saga(
        &self,
        request: Request<StartSagaRequest>,
    ) -> Result<Response<StartSagaResponse>, Status> {
        if !self.acknowledges {
            return self.inner.start_saga(request).await;
        }
        let inner = self.inner.clone();
        tokio::spawn(async move { drop(inner.start_saga(request).await) });
        Ok(Response::new(StartSagaResponse::default()))
    }

    async fn start_sagas(
        &self,
        request: Request<Streaming<StartSagasRequest>>,
    ) -> Result<Response<Self::StartSagasStream>, Status> {
        self.inner.start_sagas(request).await
    }

    async fn get_saga(
        &self,
        request: Request<GetSagaRequest>,
    ) -> Result<Response<GetSagaResponse>, Status> {
        self.inner.get_saga(request).await
    }

    async fn list_sagas(
        &self,
        request: Request<ListSagasRequest>,
    ) -> Result<Response<ListSagasResponse>, Status> {
        self.inner.list_sagas(request).await
    }

    async fn watch_saga(
        &self,
        mut request: Request<WatchSagaRequest>,
    ) -> Result<Response<Self::WatchSagaStream>, Status> {
        let after = &mut request.get_mut().after_version;
        if !self.acknowledges && *after > 0 {
            *after += 1;
        }
        self.inner.watch_saga(request).await
    }

    async fn cancel_saga(
        &self,
        request: Request<CancelSagaRequest>,
    ) -> Result<Response<CancelSagaResponse>, Status> {
        self.inner.cancel_saga(request).await
    }

    async fn signal_saga(
        &self,
        request: Request<SignalSagaRequest>,
    ) -> Result<Response<SignalSagaResponse>, Status> {
        self.inner.signal_saga(request).await
    }
}
