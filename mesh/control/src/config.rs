//! Flags and environment of meshd.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chassis::ChassisConfig;
use chassis::config::parse_duration;

/// meshd's configuration.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "meshd",
    version,
    about = "The control plane of the mesh on one machine: registry, discovery, policy and identity for its proxies"
)]
#[command(mut_arg("listen", |listen| listen.default_value("127.0.0.1:8086")))]
pub struct Config {
    /// What every process has; `--listen` is where proxies and the command line ask.
    #[command(flatten)]
    pub chassis: ChassisConfig,
    /// meshd's own settings.
    #[command(flatten)]
    pub options: Options,
    /// Prints the gRPC service config (JSON) with the timeouts and retries of the policy files, for clients outside of the mesh, and ends.
    #[arg(long)]
    pub print_service_config: bool,
}

/// meshd's own settings.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Where the certificate authority, the registry and the workloads' records are kept, below `mesh/`.
    #[arg(
        long,
        env = "SAGAMESH_DATA_DIR",
        default_value = "data",
        value_name = "PATH"
    )]
    pub data_dir: PathBuf,
    /// Folder of the policy files (*.yaml), which are followed as they change.
    #[arg(
        long,
        env = "SAGAMESH_MESH_POLICY_DIR",
        default_value = "mesh/policy",
        value_name = "PATH"
    )]
    pub policy_dir: PathBuf,
    /// How long a workload's certificate is valid: 10 seconds to 10 days. Proxies renew it at 70 %.
    #[arg(long, env = "SAGAMESH_MESH_CERTIFICATE_LIFETIME", default_value = "24h", value_parser = parse_lifetime, value_name = "TIME")]
    pub certificate_lifetime: Duration,
    /// Where Consul's HTTP API is served; `none` for not at all.
    #[arg(long, env = "SAGAMESH_CONSUL_LISTEN", default_value = "127.0.0.1:8500", value_parser = parse_optional_address, value_name = "ADDRESS")]
    pub consul_listen: OptionalAddress,
}

/// An address, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalAddress(pub Option<SocketAddr>);

fn parse_optional_address(text: &str) -> Result<OptionalAddress, String> {
    if text == "none" {
        return Ok(OptionalAddress(None));
    }
    text.parse()
        .map(|address| OptionalAddress(Some(address)))
        .map_err(|_| {
            format!("`{text}` is not an address: write for example 127.0.0.1:8500, or none")
        })
}

fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_duration(text)?;
    let range = Duration::from_secs(10)..=Duration::from_secs(10 * 24 * 3600);
    if range.contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err(format!("`{text}` is not from 10s to 240h"))
    }
}
