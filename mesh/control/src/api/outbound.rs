//! `OutboundPolicies`: how a Service is called.

use linkerd2_proxy_api::outbound::outbound_policies_server::OutboundPolicies as Api;
use linkerd2_proxy_api::outbound::{OutboundPolicy, TrafficSpec, traffic_spec};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{Answers, ERRORS, follow, when_new};
use crate::translate::authority::{self, Target};
use crate::translate::outbound;
use crate::world::{Mesh, World};

/// Serves `io.linkerd.proxy.outbound.OutboundPolicies`.
#[derive(Clone, Debug)]
pub struct OutboundPolicies {
    mesh: Mesh,
    draining: CancellationToken,
}

impl OutboundPolicies {
    /// Of this mesh; streams end at `draining`.
    pub fn new(mesh: Mesh, draining: CancellationToken) -> Self {
        Self { mesh, draining }
    }
}

fn target(request: Request<TrafficSpec>) -> Result<Target, Status> {
    match request.into_inner().target {
        Some(traffic_spec::Target::Addr(address)) => authority::address(address)
            .map_err(|message| ERRORS.invalid_field("addr", message).into()),
        Some(traffic_spec::Target::Authority(text)) => authority::parse(&text)
            .map_err(|message| ERRORS.invalid_field("authority", message).into()),
        None => Err(ERRORS
            .invalid_field("target", "is missing: name an address or an authority")
            .into()),
    }
}

/// The policy of a target. NOT_FOUND is no accident to a proxy: it then passes bytes on, outside of the mesh.
fn policy(world: &World, target: &Target) -> Result<OutboundPolicy, Status> {
    match world.service(target) {
        Some((service, port)) => Ok(outbound::policy(service, port)),
        None => Err(ERRORS
            .problem(
                Code::NotFound,
                "SERVICE_NOT_FOUND",
                "no Service of the mesh has this name or address and this port",
            )
            .into()),
    }
}

#[tonic::async_trait]
impl Api for OutboundPolicies {
    type WatchStream = Answers<OutboundPolicy>;

    async fn get(&self, request: Request<TrafficSpec>) -> Result<Response<OutboundPolicy>, Status> {
        let target = target(request)?;
        policy(&self.mesh.now(), &target).map(Response::new)
    }

    async fn watch(
        &self,
        request: Request<TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let target = target(request)?;
        policy(&self.mesh.now(), &target)?;
        let mut last = None;
        let stream = follow(&self.mesh, self.draining.clone(), move |world| {
            Ok(when_new(&mut last, policy(world, &target)?))
        });
        Ok(Response::new(stream))
    }
}
