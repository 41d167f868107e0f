//! The services behind the gateway.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use chassis::PeerChannel;
use http_body_util::BodyExt as _;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_api::shop::notifications::v1::notification_service_client::NotificationServiceClient;
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::ERRORS;
use crate::config::Config;

/// Clients of the services behind the gateway. Cheap to clone; a call takes a clone.
#[derive(Clone)]
pub(crate) struct Backends {
    pub(crate) orders: OrderServiceClient<Backend>,
    pub(crate) inventory: InventoryServiceClient<Backend>,
    pub(crate) payments: PaymentServiceClient<Backend>,
    pub(crate) notifications: NotificationServiceClient<Backend>,
    pub(crate) sagas: SagaServiceClient<Backend>,
}

impl Backends {
    pub(crate) fn new(config: &Config, env: &chassis::Env) -> Self {
        let backend = |name, address: &str| Backend {
            name,
            channel: chassis::channel(env, address),
        };
        Self {
            orders: OrderServiceClient::new(backend("orders", &config.orders)),
            inventory: InventoryServiceClient::new(backend("inventory", &config.inventory)),
            payments: PaymentServiceClient::new(backend("payments", &config.payments)),
            sagas: SagaServiceClient::new(backend("the coordinator", &config.coordinator)),
            notifications: NotificationServiceClient::new(backend(
                "notifications",
                &config.notifications,
            )),
        }
    }
}

/// A channel to a service behind. What went wrong on the way there names addresses: that is for the log, callers read
/// the service's name.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    name: &'static str,
    channel: PeerChannel,
}

impl tower::Service<http::Request<Body>> for Backend {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Body>, Status>> + Send + 'static>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let name = self.name;
        let answer = self.channel.call(request);
        Box::pin(async move {
            let response = answer.await.map_err(|status| outward(name, status))?;
            if let Some(status) = Status::from_header_map(response.headers())
                && status.code() != Code::Ok
            {
                return Err(outward(name, status));
            }
            Ok(response.map(|body| Body::new(body.map_err(move |status| outward(name, status)))))
        })
    }
}

/// The status as callers may read it: those of the transport, which have no reason, say nothing of addresses.
fn outward(name: &'static str, status: Status) -> Status {
    let (code, reason, text) = match status.code() {
        Code::Unavailable => (
            Code::Unavailable,
            "BACKEND_UNAVAILABLE",
            format!("{name} does not answer just now: try again"),
        ),
        Code::DeadlineExceeded => (
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            format!("{name} did not answer in time: try again"),
        ),
        _ => return status,
    };
    if chassis::problem::reason(&status).is_some() {
        return status;
    }
    tracing::warn!(
        backend = name,
        ?code,
        message = status.message(),
        "a backend did not answer"
    );
    ERRORS
        .problem(code, reason, text)
        .retry_after(Duration::from_secs(1))
        .into()
}

/// A request that must be answered in time.
pub(crate) fn within<T>(timeout: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}
