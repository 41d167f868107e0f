//! `Destination`: who answers for a Service.

use linkerd2_proxy_api::destination::destination_server::Destination;
use linkerd2_proxy_api::destination::{DestinationProfile, GetDestination, Update};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Answers, ERRORS, follow, when_new};
use crate::policy::AppProtocol;
use crate::translate::authority::{self, Target};
use crate::translate::destination;
use crate::world::{Mesh, World};

/// Serves `io.linkerd.proxy.destination.Destination`.
#[derive(Clone, Debug)]
pub struct Destinations {
    mesh: Mesh,
    draining: CancellationToken,
}

impl Destinations {
    /// Of this mesh; streams end at `draining`.
    pub fn new(mesh: Mesh, draining: CancellationToken) -> Self {
        Self { mesh, draining }
    }
}

fn target(request: Request<GetDestination>) -> Result<Target, Status> {
    let path = request.into_inner().path;
    authority::parse(&path).map_err(|message| ERRORS.invalid_field("path", message).into())
}

#[tonic::async_trait]
impl Destination for Destinations {
    type GetStream = Answers<Update>;
    type GetProfileStream = Answers<DestinationProfile>;

    async fn get(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let target = target(request)?;
        let mut known = None;
        let stream = follow(&self.mesh, self.draining.clone(), move |world| {
            let (key, exists, endpoints) = match world.service(&target) {
                Some((service, port)) => {
                    (service.key.clone(), true, world.endpoints(service, port))
                }
                None => {
                    let key = match &target {
                        Target::Service(key, _) => key.clone(),
                        Target::Address(address) => {
                            crate::policy::Key::new("", address.ip().to_string())
                        }
                    };
                    (key, false, destination::Endpoints::new())
                }
            };
            let updates = destination::updates(&key, exists, known.as_ref(), &endpoints);
            known = Some(endpoints);
            Ok(updates)
        });
        Ok(Response::new(stream))
    }

    async fn get_profile(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        let target = target(request)?;
        let mut last = None;
        let stream = follow(&self.mesh, self.draining.clone(), move |world| {
            Ok(when_new(&mut last, profile(world, &target)))
        });
        Ok(Response::new(stream))
    }
}

fn profile(world: &World, target: &Target) -> DestinationProfile {
    if let Some((service, port)) = world.service(target) {
        let opaque = port.protocol == AppProtocol::Opaque;
        return destination::service_profile(&service.key, port.port, opaque);
    }
    match target {
        Target::Address(address) => world
            .endpoint_at(*address)
            .map_or_else(destination::any_profile, |endpoint| {
                destination::endpoint_profile(*address, &endpoint)
            }),
        Target::Service(..) => destination::any_profile(),
    }
}
