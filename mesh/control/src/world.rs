//! What proxies are told from: the policy in force, the workloads, the healthy instances. One value, replaced as a whole.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster_ip::ClusterIps;
use crate::policy::{AppProtocol, Policy, Service, ServicePort};
use crate::translate::authority::Target;
use crate::translate::destination::{Endpoint, Endpoints};
use crate::workload::Workload;

/// An instance that is healthy, as far as proxies are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthy {
    /// Its service.
    pub service: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// Its pod; `None` outside of the mesh.
    pub pod: Option<String>,
}

/// A moment of the mesh. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// Addresses of Services.
    pub cluster_ips: Arc<ClusterIps>,
    /// Workloads by pod.
    pub workloads: Arc<BTreeMap<String, Workload>>,
    /// Healthy instances, by id.
    pub healthy: Arc<BTreeMap<String, Healthy>>,
}

impl World {
    /// The Service and the port that a target means.
    pub fn service(&self, target: &Target) -> Option<(&Service, &ServicePort)> {
        let (key, port) = match target {
            Target::Service(key, port) => (key, *port),
            Target::Address(address) => {
                let IpAddr::V4(ip) = address.ip() else {
                    return None;
                };
                let (key, _) = self.cluster_ips.iter().find(|(_, known)| **known == ip)?;
                (key, address.port())
            }
        };
        let service = self.policy.services.get(key)?;
        Some((service, service.port(port)?))
    }

    /// Who answers for a Service's port: healthy instances that are pods which the Service selects. A Service that
    /// selects nothing has the instances of its name that are no pods.
    pub fn endpoints(&self, service: &Service, port: &ServicePort) -> Endpoints {
        let h2 = port.protocol != AppProtocol::Opaque;
        let mut endpoints = Endpoints::new();
        for (id, healthy) in self.healthy.iter() {
            let endpoint = match &healthy.pod {
                None if service.selector.is_empty() && healthy.service == service.key.name => {
                    Endpoint {
                        pod: id.clone(),
                        service_account: service.key.clone(),
                        mesh: None,
                        h2,
                    }
                }
                None => continue,
                Some(pod) => {
                    let Some(workload) = self.workloads.get(pod) else {
                        continue;
                    };
                    let selected = workload.namespace == service.key.namespace
                        && service.selects(&workload.labels)
                        && port.target.number(&workload.ports) == Some(healthy.address.port());
                    if !selected {
                        continue;
                    }
                    of_workload(workload, h2)
                }
            };
            endpoints.insert(healthy.address, endpoint);
        }
        endpoints
    }

    /// The workload at an address, if the port is one of its own.
    pub fn endpoint_at(&self, address: SocketAddr) -> Option<Endpoint> {
        let workload = self.workloads.values().find(|workload| {
            workload.ip == address.ip()
                && workload.ports.values().any(|port| *port == address.port())
        })?;
        Some(of_workload(workload, false))
    }
}

fn of_workload(workload: &Workload, h2: bool) -> Endpoint {
    Endpoint {
        pod: workload.pod.clone(),
        service_account: workload.account(),
        mesh: (workload.inbound_port > 0).then(|| (workload.inbound_port, workload.identity())),
        h2,
    }
}

/// The world as it is and as it becomes. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Mesh(Arc<watch::Sender<World>>);

impl Mesh {
    /// Beginning with this world.
    pub fn new(world: World) -> Self {
        Self(Arc::new(watch::Sender::new(world)))
    }

    /// The world now.
    pub fn now(&self) -> World {
        self.0.borrow().clone()
    }

    /// Every change from now on; the world of now counts as seen by nobody.
    pub fn watch(&self) -> watch::Receiver<World> {
        let mut receiver = self.0.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Changes the world. `change` says whether it did: then, and only then, proxies are looked after.
    pub fn change(&self, change: impl FnOnce(&mut World) -> bool) {
        self.0.send_if_modified(change);
    }
}
