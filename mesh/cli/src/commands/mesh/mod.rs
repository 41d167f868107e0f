//! `sagamesh mesh`: what the mesh knows, allows and does.

mod check;
mod edges;
mod policy;
mod top;
mod who;

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use sagamesh_api::mesh::v1::mesh_service_client::MeshServiceClient;
use sagamesh_api::mesh::v1::registry_service_client::RegistryServiceClient;

use crate::args::Common;
use crate::connect::{self, Channel};
use crate::failure::{Exit, Failure};
use crate::system::{Mesh, System};

/// See what the mesh knows, allows and does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the services with their addresses and who answers behind them
    Services,
    /// List the registered instances and how healthy they are
    Instances,
    /// Show who may call what, or explain one call
    Policy(policy::Options),
    /// Show how calls are routed: timeouts, retries, circuit breakers
    Routes,
    /// Show calls between workloads as they happen: rate, success, latency
    Top {
        /// Print one table, of everything since the sidecars started
        #[arg(long)]
        once: bool,
        /// Time between two looks: 2s, 1m
        #[arg(long, default_value = "2s", value_parser = crate::args::duration, value_name = "TIME")]
        every: Duration,
    },
    /// List identities and until when their certificates are valid
    Identity,
    /// Look for what is wrong, and say what to do
    Check,
}

pub(crate) async fn run(common: &Common, command: Command) -> anyhow::Result<ExitCode> {
    let system = System::find(&common.data_dir)?;
    let mesh = of(&system)?;
    match command {
        Command::Services => who::services(common, mesh).await,
        Command::Instances => who::instances(common, mesh).await,
        Command::Identity => who::identity(common, mesh).await,
        Command::Policy(options) => policy::run(common, mesh, options).await,
        Command::Routes => policy::routes(common, mesh).await,
        Command::Top { once, every } => top::run(common, &system, once, every).await,
        Command::Check => check::run(common, &system, mesh).await,
    }
}

fn of(system: &System) -> anyhow::Result<&Mesh> {
    let none = || {
        Failure::new(Exit::Refused, "the system runs without a mesh")
            .hint("It was started with --sidecar none; start it again without that.")
    };
    Ok(system.mesh.as_ref().ok_or_else(none)?)
}

fn control(mesh: &Mesh) -> MeshServiceClient<Channel> {
    MeshServiceClient::new(connect::channel(&mesh.control))
}

fn registry(mesh: &Mesh) -> RegistryServiceClient<Channel> {
    RegistryServiceClient::new(connect::channel(&mesh.control))
}
