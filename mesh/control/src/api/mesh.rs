//! `mesh.v1.MeshService`: what an operator asks.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use chassis::{Problem, timestamp};
use sagamesh_api::mesh::v1::mesh_service_server::MeshService;
use sagamesh_api::mesh::v1::{
    Endpoint, ExplainRequest, ExplainResponse, GetPolicyStatusRequest, GetPolicyStatusResponse,
    ListRoutesRequest, ListRoutesResponse, ListServicesRequest, ListServicesResponse,
    ListWorkloadsRequest, ListWorkloadsResponse, PolicyError, Route, Service, ServicePort,
    Workload,
};
use tonic::{Code, Request, Response, Status};

use super::ERRORS;
use super::identity::Issued;
use crate::keeper::StatusReader;
use crate::policy::explain::{self, Call};
use crate::policy::{self, Authorization, Clients, Key, Match};
use crate::translate::outbound;
use crate::world::{Mesh, World};

/// Serves `mesh.v1.MeshService`.
#[derive(Clone, Debug)]
pub struct Operators {
    mesh: Mesh,
    status: StatusReader,
    issued: Issued,
}

impl Operators {
    /// Of this mesh.
    pub fn new(mesh: Mesh, status: StatusReader, issued: Issued) -> Self {
        Self {
            mesh,
            status,
            issued,
        }
    }
}

#[tonic::async_trait]
impl MeshService for Operators {
    async fn list_services(
        &self,
        _: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let world = self.mesh.now();
        let services = world.policy.services.values();
        Ok(Response::new(ListServicesResponse {
            services: services
                .map(|service| of_service(&world, service))
                .collect(),
        }))
    }

    async fn list_workloads(
        &self,
        _: Request<ListWorkloadsRequest>,
    ) -> Result<Response<ListWorkloadsResponse>, Status> {
        let world = self.mesh.now();
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let workloads = world.workloads.values().map(|workload| Workload {
            pod: workload.pod.clone(),
            namespace: workload.namespace.clone(),
            identity: workload.identity(),
            ip: workload.ip.to_string(),
            ports: workload
                .ports
                .iter()
                .map(|(name, port)| (name.clone(), u32::from(*port)))
                .collect(),
            inbound_port: u32::from(workload.inbound_port),
            certificate_expire_time: issued
                .get(&workload.pod)
                .map(|until| prost_types::Timestamp::from(*until)),
        });
        Ok(Response::new(ListWorkloadsResponse {
            workloads: workloads.collect(),
        }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let answer = explained(&self.mesh.now(), &request.into_inner())?;
        Ok(Response::new(answer))
    }

    async fn get_policy_status(
        &self,
        _: Request<GetPolicyStatusRequest>,
    ) -> Result<Response<GetPolicyStatusResponse>, Status> {
        let status = self.status.now();
        let errors = status.faults.iter().map(|fault| PolicyError {
            file: fault.file.clone(),
            line: fault.line,
            field: fault.field.clone(),
            message: fault.message.clone(),
        });
        let current = status.faults.is_empty();
        Ok(Response::new(GetPolicyStatusResponse {
            current,
            load_time: Some(timestamp::from_millis(status.loaded_at)),
            generation: status.generation,
            folder: self.status.folder.display().to_string(),
            files: status.files.clone(),
            errors: errors.collect(),
            refuse_time: (!current).then(|| timestamp::from_millis(status.refused_at)),
        }))
    }

    async fn list_routes(
        &self,
        _: Request<ListRoutesRequest>,
    ) -> Result<Response<ListRoutesResponse>, Status> {
        Ok(Response::new(ListRoutesResponse {
            routes: routes(&self.mesh.now().policy),
        }))
    }
}

fn of_service(world: &World, service: &policy::Service) -> Service {
    let ports = service.ports.iter().map(|port| ServicePort {
        name: port.name.clone(),
        port: u32::from(port.port),
        protocol: outbound::protocol_name(service, port).to_owned(),
        endpoints: world
            .endpoints(service, port)
            .into_iter()
            .map(|(address, endpoint)| Endpoint {
                pod: endpoint.pod,
                address: address.to_string(),
                identity: endpoint
                    .mesh
                    .map(|(_, identity)| identity)
                    .unwrap_or_default(),
            })
            .collect(),
    });
    Service {
        namespace: service.key.namespace.clone(),
        name: service.key.name.clone(),
        cluster_ip: world
            .cluster_ips
            .get(&service.key)
            .map(ToString::to_string)
            .unwrap_or_default(),
        ports: ports.collect(),
        failure_accrual: service
            .accrual
            .as_ref()
            .map(explain::accrual_in_words)
            .unwrap_or_default(),
    }
}

fn explained(world: &World, request: &ExplainRequest) -> Result<ExplainResponse, Problem> {
    let policy = &world.policy;
    let namespace = || {
        // People leave it out, and there is one as a rule.
        let first = policy.services.keys().next();
        first.map_or_else(String::new, |key| key.namespace.clone())
    };
    let key = match request.service.split_once('.') {
        Some((name, rest)) => Key::new(rest.split('.').next().unwrap_or_default(), name),
        None => Key::new(namespace(), &request.service),
    };
    let service = policy.services.get(&key).ok_or_else(|| {
        let known: Vec<&str> = policy
            .services
            .keys()
            .map(|key| key.name.as_str())
            .collect();
        ERRORS.problem(
            Code::NotFound,
            "SERVICE_NOT_FOUND",
            format!("there is no Service {key}: there are {}", known.join(", ")),
        )
    })?;
    let port = match request.port {
        0 => service.ports.first(),
        number => u16::try_from(number)
            .ok()
            .and_then(|number| service.port(number)),
    }
    .ok_or_else(|| ERRORS.invalid_field("port", format!("Service {key} has no such port")))?;
    let method = request.method.trim_start_matches('/');
    let (rpc_service, method) = method
        .rsplit_once('/')
        .filter(|(service, method)| !service.is_empty() && !method.is_empty())
        .ok_or_else(|| {
            ERRORS.invalid_field("method", "is not a method: write /package.Service/Method")
        })?;
    let source = match request.source.split('.').collect::<Vec<_>>().as_slice() {
        [""] => None,
        [name] => Some(policy::identity_of(&Key::new(namespace(), *name))),
        [name, namespace] => Some(policy::identity_of(&Key::new(*namespace, *name))),
        _ => Some(request.source.clone()),
    };
    let call = Call {
        identity: source.as_deref(),
        service: rpc_service,
        method,
    };
    let none = BTreeMap::new();
    let ports = world
        .workloads
        .values()
        .find(|workload| workload.namespace == key.namespace && service.selects(&workload.labels))
        .map_or(&none, |workload| &workload.ports);
    let verdict = explain::explain(policy, service, port, ports, call);
    let route = explain::outbound_route(service, port.port, call);
    Ok(ExplainResponse {
        allowed: verdict.allowed,
        reason: verdict.reason,
        server: verdict.server.map(|key| key.name).unwrap_or_default(),
        route: verdict.route.unwrap_or_default(),
        authorization_policy: verdict.policy.map(|key| key.name).unwrap_or_default(),
        outbound_route: route
            .map(|route| format!("{}/{}", route.kind.as_str(), route.key.name))
            .unwrap_or_default(),
        outbound_behaviour: explain::behaviour(service, route),
    })
}

fn routes(policy: &policy::Policy) -> Vec<Route> {
    let matches = |rules: &mut dyn Iterator<Item = &Vec<Match>>| -> Vec<String> {
        rules
            .flat_map(|matches| {
                if matches.is_empty() {
                    vec!["*".to_owned()]
                } else {
                    matches.iter().map(ToString::to_string).collect()
                }
            })
            .collect()
    };
    let outbound = policy.services.values().flat_map(|service| {
        service.routes.iter().map(|route| {
            let mut effects = explain::timeouts_in_words(&route.timeouts);
            effects.extend(route.retry.as_ref().map(explain::retry_in_words));
            Route {
                parent: format!("Service/{}", service.key.name),
                name: format!("{}/{}", route.kind.as_str(), route.key.name),
                matches: matches(&mut route.rules.iter().map(|rule| &rule.matches)),
                effects,
            }
        })
    });
    let inbound = policy.servers.values().flat_map(|server| {
        server.routes.iter().map(|route| {
            let allowed = server.authorizations.iter().chain(&route.authorizations);
            Route {
                parent: format!("Server/{}", server.key.name),
                name: format!("{}/{}", route.kind.as_str(), route.key.name),
                matches: matches(&mut route.rules.iter()),
                effects: allowed.flat_map(who).collect(),
            }
        })
    });
    outbound.chain(inbound).collect()
}

/// Who is let in, as service accounts where that is what they are.
fn who(authorization: &Authorization) -> Vec<String> {
    match &authorization.clients {
        Clients::Unauthenticated => vec!["*".to_owned()],
        Clients::Identities { names, suffixes } => {
            let names = names.iter().map(|name| {
                name.split_once(".serviceaccount.")
                    .map_or(name.as_str(), |(account, _)| account)
                    .to_owned()
            });
            let suffixes = suffixes.iter().map(|parts| {
                if parts.is_empty() {
                    "any identity".to_owned()
                } else {
                    format!("*.{}", parts.join("."))
                }
            });
            names.chain(suffixes).collect()
        }
    }
}
