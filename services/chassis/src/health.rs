//! Readiness: one switch for `grpc.health.v1` and for /ready, and NOT_SERVING first at shutdown.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Bound, not yet serving.
    Starting,
    /// Serving.
    Ready,
    /// Running, and unable to do its work for now.
    Unable,
    /// Shutting down: answers what is under way.
    Draining,
}

/// Whether the process is ready, as all who ask are told. A clone is the same switch.
#[derive(Clone, Debug)]
pub struct Readiness {
    phase: Arc<watch::Sender<Phase>>,
    services: Arc<OnceLock<Vec<&'static str>>>,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::Starting)),
            services: Arc::default(),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Ready
    }

    /// The whole process (the empty name) and each of `services` are served from now on.
    pub(crate) fn serving(&self, services: &[&'static str]) {
        self.services.get_or_init(|| services.to_vec());
        self.phase.send_replace(Phase::Ready);
    }

    /// Whether the process can do its work: new work goes elsewhere while it cannot. Nothing changes before it serves, or once it drains.
    pub fn set_able(&self, able: bool) {
        let (from, to) = match able {
            true => (Phase::Unable, Phase::Ready),
            false => (Phase::Ready, Phase::Unable),
        };
        self.phase.send_if_modified(|phase| {
            let changes = *phase == from;
            if changes {
                *phase = to;
            }
            changes
        });
    }

    /// Not any more: watchers are told, and their streams end.
    pub(crate) fn draining(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// The `grpc.health.v1` service.
    pub(crate) fn service(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    fn status(&self, service: &str, phase: Phase) -> ServingStatus {
        let known = service.is_empty()
            || self
                .services
                .get()
                .is_some_and(|all| all.contains(&service));
        match phase {
            _ if !known => ServingStatus::ServiceUnknown,
            Phase::Ready => ServingStatus::Serving,
            Phase::Starting | Phase::Unable | Phase::Draining => ServingStatus::NotServing,
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for Readiness {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        match self.status(service, *self.phase.borrow()) {
            ServingStatus::ServiceUnknown => {
                Err(Status::not_found(format!("no service `{service}` here")))
            }
            status => Ok(Response::new(response(status))),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut phases = self.phase.subscribe();
        phases.mark_changed();
        let state = (self.clone(), request.into_inner().service, phases, None);
        let watch = stream::unfold(state, |(readiness, service, mut phases, last)| async move {
            loop {
                if last.is_some()
                    && *phases.borrow() == Phase::Draining
                    && !phases.has_changed().unwrap_or(false)
                {
                    return None;
                }
                phases.changed().await.ok()?;
                let phase = *phases.borrow_and_update();
                let status = readiness.status(&service, phase);
                if last != Some(status) {
                    return Some((
                        Ok(response(status)),
                        (readiness, service, phases, Some(status)),
                    ));
                }
            }
        });
        Ok(Response::new(Box::pin(watch)))
    }
}
