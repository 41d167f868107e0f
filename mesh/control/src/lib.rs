//! The control plane of the mesh on one machine: it speaks the API of Linkerd's proxy.
//!
//! ```text
//!   mesh/policy/*.yaml --> policy (read, checked) --+
//!   data/mesh/workloads/*.json (the launcher's) ----+--> world --> translate --> Destination, OutboundPolicies,
//!   registry (instances, health) -------------------+                            InboundServerPolicies
//!   ca.key, ca.crt + workloads' tokens -------------------------------------> Identity
//! ```
//! [`policy`] and [`translate`] are pure. [`world::Mesh`] holds one value that is replaced as a whole; every stream to a
//! proxy follows it and says what became different. Everything is loaded before anything is served: a control plane that
//! comes back tells proxies what they know already.

pub mod api;
pub mod ca;
pub mod cluster_ip;
mod config;
pub mod consul;
mod files;
pub mod keeper;
pub mod policy;
pub mod registry;
pub mod service_config;
#[cfg(feature = "testing")]
pub mod testing;
pub mod translate;
pub mod workload;
pub mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use chassis::{Listener, Process};
use linkerd2_proxy_api::destination::destination_server::DestinationServer;
use linkerd2_proxy_api::identity::identity_server::IdentityServer;
use linkerd2_proxy_api::inbound::inbound_server_policies_server::InboundServerPoliciesServer;
use linkerd2_proxy_api::outbound::outbound_policies_server::OutboundPoliciesServer;
use sagamesh_api::mesh::v1::mesh_service_server::MeshServiceServer;
use sagamesh_api::mesh::v1::registry_service_server::RegistryServiceServer;
use tonic::service::Routes;

pub use config::{Config, OptionalAddress, Options};

use ca::Authority;
use keeper::Keeper;
use registry::Registry;
use workload::Workloads;
use world::{Mesh, World};

/// Names of the services, as health reports them.
const SERVICES: [&str; 6] = [
    "io.linkerd.proxy.destination.Destination",
    "io.linkerd.proxy.outbound.OutboundPolicies",
    "io.linkerd.proxy.inbound.InboundServerPolicies",
    "io.linkerd.proxy.identity.Identity",
    "mesh.v1.RegistryService",
    "mesh.v1.MeshService",
];

/// The gRPC service config of a folder of policy files, as JSON.
///
/// # Errors
/// When the folder cannot be read, or its files make no sense; names each fault.
pub fn printed_service_config(folder: &Path) -> anyhow::Result<String> {
    let sources = keeper::sources(folder).map_err(|error| {
        anyhow::anyhow!("{error}: name the folder of the policy files with --policy-dir")
    })?;
    let policy = policy::read(&sources).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", faults.join("\n"))
    })?;
    Ok(format!("{:#}", service_config::service_config(&policy)))
}

/// Runs meshd until it is told to stop.
///
/// # Errors
/// When its policy, certificate authority or registry cannot be loaded, with what to do.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    // Bound before anything is loaded: an address that is taken is known at once.
    let consul = config
        .options
        .consul_listen
        .0
        .map(Listener::bind)
        .transpose()?;
    let plane = Plane::open(&config.options, &process)?;
    let tasks = process.tasks.clone();
    if let Some(listener) = consul {
        consul::serve(listener, plane.registry.clone(), &tasks);
    }
    let served = process.serve(plane.routes(), &SERVICES).await;
    tasks.token().cancel();
    served
}

/// Everything loaded, nothing served yet.
#[derive(Debug)]
struct Plane {
    mesh: Mesh,
    registry: Registry,
    status: keeper::StatusReader,
    authority: Arc<Authority>,
    workloads: Workloads,
    env: chassis::Env,
    draining: tokio_util::sync::CancellationToken,
}

impl Plane {
    fn open(options: &Options, process: &Process) -> anyhow::Result<Self> {
        let (env, tasks) = (process.env.clone(), process.tasks.clone());
        let data = prepare(options)?;
        let workloads = Workloads::in_folder(data.join("workloads"));
        let authority = Authority::open(&data, options.certificate_lifetime, env.clock.now())
            .context("the certificate authority cannot be opened")?;
        let mesh = Mesh::new(World::default());
        let keeper = Keeper::start(
            options.policy_dir.clone(),
            data.clone(),
            mesh.clone(),
            env.clone(),
        )?;
        let registry = Registry::open(
            data.join("registry.json"),
            mesh.clone(),
            env.clone(),
            tasks.clone(),
        )?;
        let status = keeper.status();
        tasks.spawn_essential("policy", keeper.run(tasks.token()));
        Ok(Self {
            mesh,
            registry,
            status,
            authority: Arc::new(authority),
            workloads,
            env,
            draining: tasks.draining(),
        })
    }

    fn routes(&self) -> Routes {
        let Self {
            mesh,
            registry,
            status,
            authority,
            workloads,
            env,
            draining,
        } = self;
        let issued = api::Issued::default();
        Routes::new(DestinationServer::new(api::Destinations::new(
            mesh.clone(),
            draining.clone(),
        )))
        .add_service(OutboundPoliciesServer::new(api::OutboundPolicies::new(
            mesh.clone(),
            draining.clone(),
        )))
        .add_service(InboundServerPoliciesServer::new(api::InboundPolicies::new(
            mesh.clone(),
            workloads.clone(),
            draining.clone(),
        )))
        .add_service(IdentityServer::new(api::Identities::new(
            Arc::clone(authority),
            workloads.clone(),
            Arc::clone(&issued),
            env.clone(),
        )))
        .add_service(RegistryServiceServer::new(api::Registrations::new(
            registry.clone(),
            workloads.clone(),
            env.clone(),
            draining.clone(),
        )))
        .add_service(MeshServiceServer::new(api::Operators::new(
            mesh.clone(),
            status.clone(),
            issued,
        )))
    }
}

/// The mesh's own folder, made if it is not there. The authority's key is in it: it is for its owner alone.
fn prepare(options: &Options) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let data = options.data_dir.join("mesh");
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data.join("workloads"))
        .and_then(|()| std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)));
    made.with_context(|| format!("cannot make the folder {}", data.display()))?;
    Ok(data)
}
