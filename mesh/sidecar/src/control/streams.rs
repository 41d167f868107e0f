//! The streams themselves: open, publish what comes, open again after a pause.

use std::net::SocketAddr;
use std::sync::Arc;

use linkerd2_proxy_api::destination::GetDestination;
use linkerd2_proxy_api::inbound::PortSpec;
use linkerd2_proxy_api::outbound::{TrafficSpec, traffic_spec};
use tonic::{Code, Status, Streaming};

use super::backoff::Retry;
use super::endpoints::Endpoints;
use super::lookups::Publisher;
use super::metrics::ControlMetrics;
use super::{Control, Known};
use crate::policy::inbound::ServerPolicy;
use crate::policy::outbound::ClientPolicy;

/// Follows the policy of one destination.
pub(super) async fn outbound(
    control: Control,
    authority: Arc<str>,
    publisher: Publisher<Arc<str>, Known>,
) {
    let open = || {
        let mut client = control.policies_client();
        let spec = TrafficSpec {
            source_workload: control.0.addresses.workload.clone(),
            target: Some(traffic_spec::Target::Authority(authority.to_string())),
        };
        async move { client.watch(spec).await }
    };
    let on_message = |policy, _first| {
        publisher.publish(match ClientPolicy::from_proto(policy) {
            Ok(policy) => Known::Policy(Arc::new(policy)),
            Err(error) => {
                tracing::warn!(%authority, %error, "Client policy misconfigured");
                Known::Invalid(error.to_string().into())
            }
        });
    };
    let on_status = |status: &Status| match status.code() {
        Code::NotFound | Code::Unimplemented => publisher.publish(Known::Unknown),
        Code::InvalidArgument | Code::FailedPrecondition => {
            publisher.publish(Known::Invalid(status.message().into()));
        }
        _ => {}
    };
    let policy = ("policy", control.0.addresses.policy);
    tokio::select! {
        () = publisher.abandoned() => {}
        () = follow(&control, policy, &authority, open, on_message, on_status) => {}
    }
}

/// Follows the endpoints of one destination.
pub(super) async fn endpoints(
    control: Control,
    path: Arc<str>,
    publisher: Publisher<Arc<str>, Arc<Endpoints>>,
) {
    let open = || {
        let mut client = control.destination_client();
        let request = GetDestination {
            scheme: "k8s".to_owned(),
            path: path.to_string(),
            context_token: control.0.addresses.destination_context.clone(),
        };
        async move { client.get(request).await }
    };
    let on_message = |update: linkerd2_proxy_api::destination::Update, first| {
        if let Some(update) = update.update {
            let next = publisher.last().apply(update, first);
            publisher.publish(Arc::new(next));
        }
    };
    let on_status = |status: &Status| {
        if status.code() == Code::NotFound || status.code() == Code::InvalidArgument {
            publisher.publish(Arc::new(Endpoints {
                known: true,
                ..Endpoints::default()
            }));
        }
    };
    let destination = ("destination", control.0.addresses.destination);
    tokio::select! {
        () = publisher.abandoned() => {}
        () = follow(&control, destination, &path, open, on_message, on_status) => {}
    }
}

/// Follows the policy of one port.
pub(super) async fn inbound(
    control: Control,
    port: u16,
    publisher: Publisher<u16, Arc<ServerPolicy>>,
) {
    let open = || {
        let mut client = control.servers_client();
        let spec = PortSpec {
            workload: control.0.addresses.workload.clone(),
            port: port.into(),
        };
        async move { client.watch_port(spec).await }
    };
    let on_message = |server, _first| {
        publisher.publish(Arc::new(ServerPolicy::from_proto(server).unwrap_or_else(
            |error| {
                tracing::warn!(port, %error, "Server misconfigured");
                ServerPolicy::invalid(&error)
            },
        )));
    };
    let what = format!("port {port}");
    let policy = ("policy", control.0.addresses.policy);
    tokio::select! {
        () = publisher.abandoned() => {}
        () = follow(&control, policy, &what, open, on_message, |_| {}) => {}
    }
}

async fn follow<M, Fut>(
    control: &Control,
    (client, address): (&'static str, SocketAddr),
    what: &str,
    open: impl Fn() -> Fut,
    on_message: impl Fn(M, bool),
    on_status: impl Fn(&Status),
) where
    Fut: Future<Output = Result<tonic::Response<Streaming<M>>, Status>>,
{
    let metrics = ControlMetrics::new(&control.0.registry, address);
    let mut retry = Retry::new();
    loop {
        let request = metrics.begin();
        let status = match open().await {
            Ok(response) => {
                let mut stream = response.into_inner();
                let mut first = true;
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            control.set_healthy(true);
                            retry.reset();
                            on_message(message, std::mem::take(&mut first));
                        }
                        Ok(None) => break Status::ok(""),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        metrics.end(request, status.code());
        let answered = !matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Internal | Code::DeadlineExceeded
        );
        control.set_healthy(answered);
        on_status(&status);
        let pause = retry.next();
        tracing::debug!(client, what, code = ?status.code(), message = status.message(), pause_ms = pause.as_millis() as u64, "a stream of the control plane ended");
        tokio::time::sleep(pause).await;
    }
}
