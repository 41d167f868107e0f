//! The mesh of a system on one machine: its control plane, and a sidecar beside every process.

mod files;
mod policy;
pub(crate) mod registry;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::launcher::addresses::{Addresses, Pod};
use crate::launcher::plan::{self, Instance, Place, Program, SIDECAR_VARIABLES};
use crate::system::Role;

pub(crate) use files::{bearer, prepare, trust_anchors};

/// The namespace of every workload, as in a cluster.
pub(crate) const NAMESPACE: &str = "sagamesh";
/// How the identities of workloads end.
const TRUST_DOMAIN: &str = "serviceaccount.identity.linkerd.cluster.local";

/// What stands between processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sidecar {
    /// Nothing: they talk directly.
    None,
    /// This project's own sidecar.
    Embedded,
    /// Linkerd's proxy, the binary at this path, in a network of the system's own.
    Linkerd(PathBuf),
}

impl FromStr for Sidecar {
    type Err = String;

    fn from_str(text: &str) -> Result<Sidecar, String> {
        match text {
            "none" => Ok(Sidecar::None),
            "embedded" => Ok(Sidecar::Embedded),
            _ => match text.strip_prefix("linkerd:") {
                Some(path) if !path.is_empty() => Ok(Sidecar::Linkerd(path.into())),
                _ => Err(
                    "write embedded, none or linkerd:PATH, with the path of linkerd2-proxy".into(),
                ),
            },
        }
    }
}

/// A mesh to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The folder of the policy files.
    pub(crate) policy_dir: PathBuf,
    /// Where the control plane serves Consul's API.
    pub(crate) consul: SocketAddr,
    /// How long certificates are valid, if not for as long as the control plane has it by default.
    pub(crate) certificate_lifetime: Option<&'static str>,
    /// Linkerd's proxy, in place of this project's own sidecar.
    pub(crate) proxy: Option<PathBuf>,
}

/// A process with a sidecar, as a pod is in a cluster; or a sidecar alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// Its service, and its service account.
    pub(crate) service: &'static str,
    /// Which replica, from 0.
    pub(crate) replica: u32,
    /// Name of the pod.
    pub(crate) pod: String,
    /// Where it listens.
    pub(crate) at: Pod,
    /// The app's ports by name.
    pub(crate) ports: BTreeMap<&'static str, u16>,
}

impl Workload {
    /// A replica of a service that takes requests at this port.
    pub(crate) fn service(
        addresses: &Addresses,
        service: &'static str,
        replica: u32,
        port: u16,
    ) -> Workload {
        let at = addresses.pod(service, replica);
        let name = if service == "gateway" { "http" } else { "grpc" };
        Workload {
            service,
            replica,
            pod: format!("{service}-{replica}"),
            at,
            ports: BTreeMap::from([(name, port), ("admin", at.admin.port())]),
        }
    }

    /// Whoever operates the system, and talks to its services through a sidecar of their own.
    pub(crate) fn operator(addresses: &Addresses) -> Workload {
        Workload {
            service: "operator",
            replica: 0,
            pod: "operator-0".into(),
            at: addresses.operator(),
            ports: BTreeMap::new(),
        }
    }

    /// Who it is for others in the mesh.
    pub(crate) fn identity(&self) -> String {
        format!("{}.{NAMESPACE}.{TRUST_DOMAIN}", self.service)
    }

    /// Its labels, by which policies and Services choose it.
    pub(crate) fn labels(&self) -> BTreeMap<&'static str, String> {
        let mut labels = BTreeMap::from([("app.kubernetes.io/name", self.service.to_owned())]);
        if self.service == "coordinator" {
            labels.insert("statefulset.kubernetes.io/pod-name", self.pod.clone());
        }
        labels
    }
}

impl Layout {
    /// The control plane.
    pub(crate) fn control(&self, place: Place<'_>) -> Instance {
        let (listen, admin) = (place.addresses.control(), place.addresses.control_admin());
        let environment = [
            ("SAGAMESH_LISTEN", listen.to_string()),
            ("SAGAMESH_ADMIN_LISTEN", admin.to_string()),
            ("SAGAMESH_EXIT_WITH_PARENT", "true".into()),
            ("SAGAMESH_DRAIN_TIMEOUT", "500ms".into()),
            ("SAGAMESH_DATA_DIR", place.data_dir.display().to_string()),
            (
                "SAGAMESH_MESH_POLICY_DIR",
                self.policy_dir.display().to_string(),
            ),
            ("SAGAMESH_CONSUL_LISTEN", self.consul.to_string()),
        ];
        let mut environment = owned(environment);
        if let Some(lifetime) = self.certificate_lifetime {
            let name = "SAGAMESH_MESH_CERTIFICATE_LIFETIME";
            environment.insert(name.into(), lifetime.into());
        }
        Instance {
            role: Role::Control,
            service: "meshd",
            replica: 0,
            label: "meshd".into(),
            program: Program::Own("meshd"),
            environment,
            listen,
            admin,
            log: plan::log(place.data_dir, "meshd"),
        }
    }

    /// A workload's sidecar. Its trust anchors are to be added once the control plane has made them.
    pub(crate) fn sidecar(&self, place: Place<'_>, workload: &Workload) -> Instance {
        let control = place.addresses.control().to_string();
        let pod = &workload.at;
        let ports: Vec<_> = workload.ports.values().map(u16::to_string).collect();
        let name = serde_json::json!({ "ns": NAMESPACE, "pod": workload.pod });
        let settings = [
            ("DESTINATION_SVC_ADDR", control.clone()),
            ("POLICY_SVC_ADDR", control.clone()),
            ("IDENTITY_SVC_ADDR", control),
            ("POLICY_WORKLOAD", name.to_string()),
            (
                "IDENTITY_TOKEN_FILE",
                files::token(place.data_dir, workload).display().to_string(),
            ),
            (
                "IDENTITY_DIR",
                files::identity(place.data_dir, workload)
                    .display()
                    .to_string(),
            ),
            ("IDENTITY_LOCAL_NAME", workload.identity()),
            ("INBOUND_LISTEN_ADDR", pod.inbound.to_string()),
            ("OUTBOUND_LISTEN_ADDRS", pod.outbound.to_string()),
            ("ADMIN_LISTEN_ADDR", pod.sidecar_admin.to_string()),
            ("INBOUND_IPS", pod.ip().to_string()),
            ("INBOUND_PORTS", ports.join(",")),
            ("INBOUND_DEFAULT_POLICY", "deny".into()),
            ("INGRESS_MODE", "true".into()),
            ("SHUTDOWN_GRACE_PERIOD", "300ms".into()),
            // There are many of them on one machine.
            ("CORES", "1".into()),
        ];
        let mut environment: BTreeMap<String, String> = settings
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (format!("{SIDECAR_VARIABLES}{name}"), value))
            .collect();
        environment.insert("SAGAMESH_EXIT_WITH_PARENT".into(), "true".into());
        let label = format!("{}-sidecar", workload.pod);
        Instance {
            role: Role::Sidecar,
            service: workload.service,
            replica: workload.replica,
            log: plan::log(place.data_dir, &label),
            label,
            program: match &self.proxy {
                Some(path) => Program::Proxy(path.clone()),
                None => Program::Own("sidecar"),
            },
            environment,
            listen: pod.outbound,
            admin: pod.sidecar_admin,
        }
    }
}

/// Tells a sidecar which certificates to trust.
pub(crate) fn trust(sidecar: &mut Instance, anchors: &str) {
    let name = format!("{SIDECAR_VARIABLES}IDENTITY_TRUST_ANCHORS");
    sidecar.environment.insert(name, anchors.to_owned());
}

fn owned<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The folder of the mesh's files in a data folder.
pub(crate) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("mesh")
}
