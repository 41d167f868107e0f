//! Keeps one instance in the mesh's registry for as long as it is ready, as a cluster does with a pod.

use std::time::Duration;

use sagamesh_api::mesh::v1::registry_service_client::RegistryServiceClient;
use sagamesh_api::mesh::v1::{
    Check, DeregisterRequest, GrpcCheck, HttpCheck, InstanceSpec, PodRef, RegisterRequest,
    RenewRequest, check,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request};

use crate::connect::Channel;
use crate::launcher::plan::Instance;

/// How long an instance stays without a sign of life.
const LEASE: Duration = Duration::from_secs(15);
/// Time between two signs of life.
const RENEWAL: Duration = Duration::from_secs(5);
/// Time between two checks of its health.
const CHECK: Duration = Duration::from_secs(1);
/// The longest that the registry may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time until it is asked again when it did not answer.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the way out may take.
const FAREWELL: Duration = Duration::from_millis(300);

/// What the registry is to know of a service's process. One at the public port is outside of the mesh: nobody inside calls
/// it.
pub(crate) fn spec(instance: &Instance, is_public: bool) -> InstanceSpec {
    let pod = format!("{}-{}", instance.service, instance.replica);
    let kind = if instance.service == "gateway" {
        check::Kind::Http(HttpCheck {
            url: format!("http://{}/ready", instance.admin),
        })
    } else {
        check::Kind::Grpc(GrpcCheck::default())
    };
    InstanceSpec {
        service: instance.service.into(),
        instance_id: pod.clone(),
        address: instance.listen.ip().to_string(),
        port: instance.listen.port().into(),
        checks: vec![Check {
            check_id: "ready".into(),
            interval: Some(duration(CHECK)),
            timeout: Some(duration(PATIENCE)),
            kind: Some(kind),
        }],
        pod: (!is_public).then(|| PodRef {
            name: pod,
            ..PodRef::default()
        }),
        lease_ttl: Some(duration(LEASE)),
        ..InstanceSpec::default()
    }
}

/// Registers the instance while it is ready, until `drain`, and proves by `token` that it is its pod.
pub(crate) async fn follow(
    registry: RegistryServiceClient<Channel>,
    spec: InstanceSpec,
    token: MetadataValue<Ascii>,
    mut ready: watch::Receiver<bool>,
    drain: CancellationToken,
) {
    while drain
        .run_until_cancelled(ready.wait_for(|ready| *ready))
        .await
        .is_some_and(|waited| waited.is_ok())
    {
        let ends = async {
            // Its process is supervised for ever, or this one is about to end.
            let _ = ready.wait_for(|ready| !*ready).await;
        };
        tokio::select! {
            never = keep(&registry, &spec, &token) => match never {},
            () = ends => {}
            () = drain.cancelled() => {}
        }
        let request = DeregisterRequest {
            instance_id: spec.instance_id.clone(),
        };
        // Without an answer its lease ends, or its next registration replaces it.
        let _ = registry
            .clone()
            .deregister(timed(request, &token, FAREWELL))
            .await;
    }
}

/// Registers and renews, whatever happens to the registry.
async fn keep(
    registry: &RegistryServiceClient<Channel>,
    spec: &InstanceSpec,
    token: &MetadataValue<Ascii>,
) -> std::convert::Infallible {
    loop {
        let request = RegisterRequest {
            instance: Some(spec.clone()),
        };
        if let Err(status) = registry
            .clone()
            .register(timed(request, token, PATIENCE))
            .await
        {
            let is_away = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
            if !is_away {
                let (id, message) = (&spec.instance_id, status.message());
                eprintln!("the mesh's registry refuses {id}: {message}");
            }
            tokio::time::sleep(if is_away { AGAIN } else { RENEWAL }).await;
            continue;
        }
        loop {
            tokio::time::sleep(RENEWAL).await;
            let request = RenewRequest {
                instance_id: spec.instance_id.clone(),
                ..RenewRequest::default()
            };
            let renewed = registry
                .clone()
                .renew(timed(request, token, PATIENCE))
                .await;
            if renewed.is_err_and(|status| status.code() == Code::NotFound) {
                break;
            }
        }
    }
}

fn timed<T>(message: T, token: &MetadataValue<Ascii>, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
        .metadata_mut()
        .insert("authorization", token.clone());
    request
}

fn duration(of: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(of.subsec_nanos()).unwrap_or(0),
    }
}
