//! The four APIs, answered from the state.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use linkerd2_proxy_api::destination::destination_server::Destination;
use linkerd2_proxy_api::destination::{
    AddrSet, DestinationProfile, GetDestination, Update, WeightedAddrSet, update,
};
use linkerd2_proxy_api::identity::identity_server::Identity;
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse};
use linkerd2_proxy_api::inbound::inbound_server_policies_server::InboundServerPolicies;
use linkerd2_proxy_api::inbound::{PortSpec, Server};
use linkerd2_proxy_api::net::TcpAddress;
use linkerd2_proxy_api::outbound::outbound_policies_server::OutboundPolicies;
use linkerd2_proxy_api::outbound::{OutboundPolicy, TrafficSpec, traffic_spec};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{State, TOKEN};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The four APIs.
#[derive(Clone, Debug)]
pub(super) struct Services(pub(super) Arc<State>);

impl Services {
    /// The destination that has this address.
    fn of_address(&self, address: TcpAddress) -> Result<String, Status> {
        let address = SocketAddr::try_from(address)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let services = self.0.services.lock();
        services
            .unwrap_or_else(PoisonError::into_inner)
            .get(&address)
            .cloned()
            .ok_or_else(|| Status::not_found("no such service"))
    }
}

#[tonic::async_trait]
impl OutboundPolicies for Services {
    type WatchStream = Answers<OutboundPolicy>;

    async fn get(&self, _: Request<TrafficSpec>) -> Result<Response<OutboundPolicy>, Status> {
        Err(Status::unimplemented("proxies watch"))
    }

    async fn watch(
        &self,
        request: Request<TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let authority = match request.into_inner().target {
            Some(traffic_spec::Target::Authority(authority)) => authority,
            Some(traffic_spec::Target::Addr(address)) => self.of_address(address)?,
            None => return Err(Status::invalid_argument("no target")),
        };
        let policies = self.0.policies.follow(authority);
        if policies.borrow().is_none() {
            return Err(Status::not_found("no such destination"));
        }
        Ok(Response::new(Box::pin(
            WatchStream::new(policies).filter_map(|policy| policy.map(Ok)),
        )))
    }
}

#[tonic::async_trait]
impl Destination for Services {
    type GetStream = Answers<Update>;
    type GetProfileStream = Answers<DestinationProfile>;

    async fn get(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let endpoints = WatchStream::new(self.0.endpoints.follow(request.into_inner().path));
        let mut before = Vec::new();
        let updates = endpoints.filter_map(|all| all).map(move |all| {
            let gone = std::mem::replace(&mut before, all.clone());
            let gone: Vec<_> = gone
                .into_iter()
                .filter_map(|endpoint| endpoint.addr)
                .filter(|addr| {
                    !all.iter()
                        .any(|endpoint| endpoint.addr.as_ref() == Some(addr))
                })
                .collect();
            let add = update::Update::Add(WeightedAddrSet {
                addrs: all,
                ..Default::default()
            });
            let remove =
                (!gone.is_empty()).then_some(update::Update::Remove(AddrSet { addrs: gone }));
            let updates = [Some(add), remove].into_iter().flatten();
            tokio_stream::iter(
                updates
                    .map(|update| {
                        Ok(Update {
                            update: Some(update),
                        })
                    })
                    .collect::<Vec<_>>(),
            )
        });
        Ok(Response::new(Box::pin(futures_util::StreamExt::flatten(
            updates,
        ))))
    }

    async fn get_profile(
        &self,
        _: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        // Says nothing of the destination, and stays open.
        let profiles = tokio_stream::once(Ok(DestinationProfile::default()));
        Ok(Response::new(Box::pin(
            profiles.chain(tokio_stream::pending()),
        )))
    }
}

#[tonic::async_trait]
impl InboundServerPolicies for Services {
    type WatchPortStream = Answers<Server>;

    async fn get_port(&self, _: Request<PortSpec>) -> Result<Response<Server>, Status> {
        Err(Status::unimplemented("proxies watch"))
    }

    async fn watch_port(
        &self,
        request: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        let spec = request.into_inner();
        let port =
            u16::try_from(spec.port).map_err(|_| Status::invalid_argument("no such port"))?;
        let servers = WatchStream::new(self.0.servers.follow((spec.workload, port)));
        Ok(Response::new(Box::pin(
            servers.filter_map(|server| server.map(Ok)),
        )))
    }
}

#[tonic::async_trait]
impl Identity for Services {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        if request.token != TOKEN.as_bytes() {
            return Err(Status::permission_denied("not a known token"));
        }
        let (leaf_certificate, expires) = self
            .0
            .authority
            .sign(&request.identity, &request.certificate_signing_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(CertifyResponse {
            leaf_certificate,
            intermediate_certificates: Vec::new(),
            valid_until: Some(expires.into()),
        }))
    }
}
