//! `InboundServerPolicies`: who may call a workload's port.

use linkerd2_proxy_api::inbound::inbound_server_policies_server::InboundServerPolicies as Api;
use linkerd2_proxy_api::inbound::{PortSpec, Server};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{Answers, ERRORS, follow, when_new};
use crate::translate::inbound::{self, Pod};
use crate::workload::{Workloads, is_pod_name};
use crate::world::{Mesh, World};

/// Serves `io.linkerd.proxy.inbound.InboundServerPolicies`.
#[derive(Clone, Debug)]
pub struct InboundPolicies {
    mesh: Mesh,
    workloads: Workloads,
    draining: CancellationToken,
}

impl InboundPolicies {
    /// Of this mesh; streams end at `draining`.
    pub fn new(mesh: Mesh, workloads: Workloads, draining: CancellationToken) -> Self {
        Self {
            mesh,
            workloads,
            draining,
        }
    }

    /// The pod and the port of a question. A pod that is not known yet may have been recorded a moment ago.
    fn asked(&self, request: Request<PortSpec>) -> Result<Asked, Status> {
        let asked = Asked::parse(request.into_inner())?;
        if !self.mesh.now().workloads.contains_key(&asked.pod)
            && let Ok(Some(workload)) = self.workloads.get(&asked.pod)
        {
            self.mesh.change(|world| {
                let mut workloads = (*world.workloads).clone();
                workloads.insert(asked.pod.clone(), workload);
                world.workloads = workloads.into();
                true
            });
        }
        Ok(asked)
    }
}

struct Asked {
    namespace: String,
    pod: String,
    port: u16,
}

/// What a proxy says of itself: `LINKERD2_PROXY_POLICY_WORKLOAD`.
#[derive(Deserialize)]
struct WorkloadName {
    ns: String,
    pod: String,
}

impl Asked {
    fn parse(spec: PortSpec) -> Result<Self, Status> {
        let name = Some(spec.workload)
            .filter(|text| text.len() <= 1024)
            .and_then(|text| serde_json::from_str::<WorkloadName>(&text).ok())
            .filter(|name| is_pod_name(&name.pod))
            .ok_or_else(|| {
                ERRORS.invalid_field(
                    "workload",
                    r#"is not the name of a pod: write {"ns":"NAMESPACE","pod":"POD"}"#,
                )
            })?;
        let port = u16::try_from(spec.port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| ERRORS.invalid_field("port", "is not from 1 to 65535"))?;
        Ok(Self {
            namespace: name.ns,
            pod: name.pod,
            port,
        })
    }

    fn server(&self, world: &World) -> Result<Server, Status> {
        let workload = world
            .workloads
            .get(&self.pod)
            .filter(|workload| workload.namespace == self.namespace)
            .ok_or_else(|| {
                ERRORS.problem(
                    Code::NotFound,
                    "WORKLOAD_NOT_FOUND",
                    format!("there is no record of the pod {}", self.pod),
                )
            })?;
        let pod = Pod {
            namespace: &workload.namespace,
            labels: &workload.labels,
            ports: &workload.ports,
        };
        Ok(inbound::server(&world.policy, pod, self.port))
    }
}

#[tonic::async_trait]
impl Api for InboundPolicies {
    type WatchPortStream = Answers<Server>;

    async fn get_port(&self, request: Request<PortSpec>) -> Result<Response<Server>, Status> {
        let asked = self.asked(request)?;
        asked.server(&self.mesh.now()).map(Response::new)
    }

    async fn watch_port(
        &self,
        request: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        let asked = self.asked(request)?;
        asked.server(&self.mesh.now())?;
        let mut last = None;
        let stream = follow(&self.mesh, self.draining.clone(), move |world| {
            Ok(when_new(&mut last, asked.server(world)?))
        });
        Ok(Response::new(stream))
    }
}
