//! What a launcher starts: which services, how many of each, in which order, with which environment. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure};
use crate::launcher::addresses::Addresses;
use crate::launcher::mesh::{Layout, Workload};
use crate::system::{Role, mesh_url};

/// The services, in the order in which they are shown.
pub(crate) const SERVICES: [&str; 6] = [
    "coordinator",
    "orders",
    "inventory",
    "payments",
    "notifications",
    "gateway",
];

/// What the variables of a sidecar begin with: it inherits none of them either.
pub(crate) const SIDECAR_VARIABLES: &str = "LINKERD2_PROXY_";

/// Most replicas of one service: what a block of addresses has room for.
pub(crate) const MAX_REPLICAS: u32 = 5;

/// Most replicas of the coordinator: each has a Service of its own in the policy files.
const MAX_COORDINATORS: u32 = 3;

/// Variables that no process inherits from the user's shell: each is for one process, and the launcher sets it or leaves
/// it unset; or it is for the command `sagamesh` alone, and may be a secret.
pub(crate) const OWN_VARIABLES: [&str; 27] = [
    "SAGAMESH_LISTEN",
    "SAGAMESH_ADMIN_LISTEN",
    "SAGAMESH_ADDRESSES_FILE",
    "SAGAMESH_DATA_DIR",
    "SAGAMESH_DATABASE_URL",
    "SAGAMESH_DRAIN_DELAY",
    "SAGAMESH_DRAIN_TIMEOUT",
    "SAGAMESH_EXIT_WITH_PARENT",
    "SAGAMESH_REPLICA",
    "SAGAMESH_REPLICA_ADDRESS",
    "SAGAMESH_COORDINATOR",
    "SAGAMESH_COORDINATOR_REPLICAS",
    "SAGAMESH_ORDERS",
    "SAGAMESH_INVENTORY",
    "SAGAMESH_PAYMENTS",
    "SAGAMESH_NOTIFICATIONS",
    "SAGAMESH_MESH_OUTBOUND",
    "SAGAMESH_MESH_POLICY_DIR",
    "SAGAMESH_CONSUL_LISTEN",
    "SAGAMESH_SIDECAR",
    "SAGAMESH_POLICY_DIR",
    "SAGAMESH_NAMESPACE",
    "SAGAMESH_NAMESPACE_PORT",
    "SAGAMESH_BIN_DIR",
    "SAGAMESH_PORT",
    "SAGAMESH_POSTGRES",
    "SAGAMESH_TOKEN",
];

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Each service that is started, with the number of its replicas.
    pub(crate) replicas: Vec<(&'static str, u32)>,
}

/// What the processes of a plan are given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Where the data lives.
    pub(crate) data_dir: &'a Path,
    /// Who listens where.
    pub(crate) addresses: &'a Addresses,
    /// The URL of each service's database, if not SQLite.
    pub(crate) postgres: Option<&'a BTreeMap<&'static str, String>>,
    /// The mesh; none when services talk directly.
    pub(crate) mesh: Option<&'a Layout>,
}

/// One process to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// What it is.
    pub(crate) role: Role,
    /// Name of the service; of a sidecar, that of the service beside it.
    pub(crate) service: &'static str,
    /// Which replica, from 0.
    pub(crate) replica: u32,
    /// Name to show and to call its files by.
    pub(crate) label: String,
    /// What to run.
    pub(crate) program: Program,
    /// Its own environment, on top of the launcher's.
    pub(crate) environment: BTreeMap<String, String>,
    /// Where it takes requests.
    pub(crate) listen: SocketAddr,
    /// Its admin side.
    pub(crate) admin: SocketAddr,
    /// Its log file.
    pub(crate) log: PathBuf,
}

/// What a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// A binary of this name beside the launcher's own.
    Own(&'static str),
    /// Linkerd's proxy at this path, which knows nothing of launchers.
    Proxy(PathBuf),
}

impl Plan {
    /// Checks `--services` and `--replicas`.
    pub(crate) fn new(
        only: &[String],
        replicas: &[(String, u32)],
        postgres: bool,
    ) -> Result<Plan, Failure> {
        for name in only.iter().chain(replicas.iter().map(|(name, _)| name)) {
            if !SERVICES.contains(&name.as_str()) {
                return Err(
                    Failure::new(Exit::Usage, format!("there is no service named {name}"))
                        .hint(format!("The services are {}.", SERVICES.join(", "))),
                );
            }
        }
        for (name, count) in replicas {
            check_replicas(name, *count, postgres)?;
        }
        let count = |service: &str| {
            replicas
                .iter()
                .find(|(name, _)| name == service)
                .map_or(1, |(_, count)| *count)
        };
        let chosen = |service: &&str| only.is_empty() || only.iter().any(|name| name == service);
        Ok(Plan {
            replicas: SERVICES
                .into_iter()
                .filter(chosen)
                .map(|service| (service, count(service)))
                .collect(),
        })
    }

    /// The processes to start, in the order in which they are shown.
    pub(crate) fn instances(&self, place: Place<'_>) -> Vec<Instance> {
        let mut instances: Vec<_> = self
            .each()
            .map(|(service, replica)| self.service(place, service, replica))
            .collect();
        if let Some(mesh) = place.mesh {
            instances.push(mesh.control(place));
            let workloads = self.workloads(place.addresses).into_iter();
            instances.extend(workloads.map(|workload| mesh.sidecar(place, &workload)));
        }
        instances
    }

    /// The workloads of the mesh: every replica of every service, and the operator.
    pub(crate) fn workloads(&self, addresses: &Addresses) -> Vec<Workload> {
        let operator = Workload::operator(addresses);
        let services = self.each().map(|(service, replica)| {
            let listen = self.listen(addresses, service, replica);
            Workload::service(addresses, service, replica, listen.port())
        });
        services.chain([operator]).collect()
    }

    /// Every address that will be listened on, with who does.
    pub(crate) fn listens(&self, place: Place<'_>) -> Vec<(String, SocketAddr)> {
        let addresses = place.addresses;
        let mut all: Vec<_> = self
            .instances(place)
            .into_iter()
            .flat_map(|one| [(one.label.clone(), one.listen), (one.label, one.admin)])
            .collect();
        if place.mesh.is_some() {
            let inbound = self.workloads(addresses).into_iter();
            all.extend(inbound.map(|workload| (workload.pod, workload.at.inbound)));
        }
        if self.gateways() > 1 {
            all.push(("the public port".to_owned(), addresses.public()));
        }
        all
    }

    /// How many gateways there are. One alone owns the public port; several are behind the launcher's balancer.
    pub(crate) fn gateways(&self) -> u32 {
        let mut all = self.replicas.iter();
        all.find(|(name, _)| *name == "gateway")
            .map_or(0, |(_, count)| *count)
    }

    /// Where a replica of a service takes requests.
    fn listen(&self, addresses: &Addresses, service: &str, replica: u32) -> SocketAddr {
        let pod = addresses.pod(service, replica);
        match service {
            "gateway" if self.gateways() == 1 => addresses.public(),
            "gateway" => pod.http,
            _ => pod.grpc,
        }
    }

    fn each(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.replicas
            .iter()
            .flat_map(|&(service, count)| (0..count).map(move |replica| (service, replica)))
    }

    /// Name to show: the replica's number only where there are several.
    pub(crate) fn label(&self, service: &str, replica: u32) -> String {
        let several = |&(name, count): &(&str, u32)| name == service && count > 1;
        if self.replicas.iter().any(several) {
            format!("{service}-{replica}")
        } else {
            service.to_owned()
        }
    }

    fn service(&self, place: Place<'_>, service: &'static str, replica: u32) -> Instance {
        let pod = place.addresses.pod(service, replica);
        let label = self.label(service, replica);
        let listen = self.listen(place.addresses, service, replica);
        let mut environment = self.peers(place);
        let mut set = |name: &str, value: String| environment.insert(name.to_owned(), value);
        set("SAGAMESH_LISTEN", listen.to_string());
        set("SAGAMESH_ADMIN_LISTEN", pod.admin.to_string());
        set("SAGAMESH_EXIT_WITH_PARENT", "true".into());
        // Within the launcher's own 10 s: the gateway ends first, then all others at once.
        let drain = if service == "gateway" { "3s" } else { "5s" };
        set("SAGAMESH_DRAIN_TIMEOUT", drain.into());
        set("SAGAMESH_DATA_DIR", place.data_dir.display().to_string());
        if let Some(url) = place.postgres.and_then(|urls| urls.get(service)) {
            set("SAGAMESH_DATABASE_URL", url.clone());
        }
        if place.mesh.is_some() {
            set("SAGAMESH_MESH_OUTBOUND", pod.outbound.to_string());
        }
        if service == "coordinator" {
            set("SAGAMESH_REPLICA", format!("coordinator-{replica}"));
            set("SAGAMESH_REPLICA_ADDRESS", coordinator(place, replica));
        }
        Instance {
            role: Role::Service,
            service,
            replica,
            log: log(place.data_dir, &label),
            label,
            program: Program::Own(service),
            environment,
            listen,
            admin: pod.admin,
        }
    }

    /// Where every service finds the others; also those that are not started, which may be run by hand.
    fn peers(&self, place: Place<'_>) -> BTreeMap<String, String> {
        let url = |service: &str| match place.mesh {
            Some(_) => mesh_url(service),
            None => format!("http://{}", place.addresses.pod(service, 0).grpc),
        };
        let mut peers: BTreeMap<_, _> = SERVICES
            .into_iter()
            .filter(|service| *service != "gateway")
            .map(|service| (format!("SAGAMESH_{}", service.to_uppercase()), url(service)))
            .collect();
        // A stream of saga steps goes to each replica, a call to any of them.
        let coordinators = self
            .replicas
            .iter()
            .find(|(name, _)| *name == "coordinator");
        let replicas = coordinators.map_or(1, |(_, count)| *count);
        let all: Vec<_> = (0..replicas)
            .map(|replica| coordinator(place, replica))
            .collect();
        peers.insert("SAGAMESH_COORDINATOR_REPLICAS".into(), all.join(","));
        peers
    }
}

/// Where one replica of the coordinator is found.
fn coordinator(place: Place<'_>, replica: u32) -> String {
    match place.mesh {
        Some(_) => mesh_url(&format!("coordinator-{replica}")),
        None => format!(
            "http://{}",
            place.addresses.pod("coordinator", replica).grpc
        ),
    }
}

/// The log file of a process.
pub(crate) fn log(data_dir: &Path, label: &str) -> PathBuf {
    data_dir.join("logs").join(format!("{label}.log"))
}

fn check_replicas(name: &str, count: u32, postgres: bool) -> Result<(), Failure> {
    let most = match name {
        "coordinator" => MAX_COORDINATORS,
        _ => MAX_REPLICAS,
    };
    if count == 0 || count > most {
        return Err(Failure::new(
            Exit::Usage,
            format!("--replicas {name}={count} is not possible: 1 to {most} are"),
        )
        .hint(format!(
            "To leave {name} out, list the other services with --services."
        )));
    }
    if count == 1 {
        return Ok(());
    }
    match name {
        "gateway" => Ok(()),
        _ if !postgres => Err(Failure::new(
            Exit::Usage,
            format!("--replicas {name}={count} needs --postgres: replicas of a service that has a database need one that they can share"),
        )
        .hint("Add --postgres URL; on SQLite every service runs once.")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
