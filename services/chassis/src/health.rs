//! Readiness: one switch for `grpc.health.v1` and for /ready, and NOT_SERVING first at shutdown.

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

/// Whether the process is ready, as all who ask are told.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    reporter: HealthReporter,
    ready: watch::Sender<bool>,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        Self {
            reporter: HealthReporter::new(),
            ready: watch::Sender::new(false),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// The `grpc.health.v1` service.
    pub(crate) fn service(&self) -> HealthServer<impl Health> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// The whole process (the empty name) and each of `services` are served, or not any more.
    pub(crate) async fn set(&self, services: &[&str], ready: bool) {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in std::iter::once(&"").chain(services) {
            self.reporter.set_service_status(*service, status).await;
        }
        self.ready.send_replace(ready);
    }
}
