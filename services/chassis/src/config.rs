//! Configuration that every process shares: plain structs, flags and environment variables, documented defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, ValueEnum};

/// The flags that every process of sagamesh has. Flatten it into the service's own `clap` struct.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ChassisConfig {
    /// Listening, limits, deadlines, shutdown.
    #[command(flatten)]
    pub server: ServerConfig,
    /// The way to other services.
    #[command(flatten)]
    pub mesh: MeshConfig,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

/// Listening, limits, deadlines, shutdown.
#[derive(clap::Args, Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen for requests; port 0 takes a free port.
    #[arg(
        long,
        env = "SAGAMESH_LISTEN",
        default_value = "127.0.0.1:50051",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// Where to serve /live, /ready and /metrics; port 0 takes a free port.
    #[arg(
        long,
        env = "SAGAMESH_ADMIN_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
    /// Largest request message; units B, KiB, MiB.
    #[arg(long, env = "SAGAMESH_MAX_REQUEST_BYTES", default_value = "4MiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub max_request_bytes: usize,
    /// Requests and streams served at one time; above it requests are refused with RESOURCE_EXHAUSTED.
    #[arg(
        long,
        env = "SAGAMESH_MAX_CONCURRENT_REQUESTS",
        default_value_t = 4096,
        value_name = "N"
    )]
    pub max_concurrent_requests: usize,
    /// Connections open at one time, held to three quarters of the open files that the process may have.
    #[arg(
        long,
        env = "SAGAMESH_MAX_CONNECTIONS",
        default_value_t = 8192,
        value_name = "N"
    )]
    pub max_connections: usize,
    /// Connections of one address open at one time, at a public port (the gateway's).
    #[arg(
        long,
        env = "SAGAMESH_MAX_CONNECTIONS_PER_ADDRESS",
        default_value_t = 512,
        value_name = "N"
    )]
    pub max_connections_per_address: usize,
    /// Deadline of a unary request that brings none; units ms, s, m, h.
    #[arg(long, env = "SAGAMESH_DEFAULT_DEADLINE", default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub default_deadline: Duration,
    /// At shutdown, how long requests under way may take before they are cut off.
    #[arg(long, env = "SAGAMESH_DRAIN_TIMEOUT", default_value = "8s", value_parser = parse_duration, value_name = "TIME")]
    pub drain_timeout: Duration,
    /// At shutdown, how long to go on accepting after health says NOT_SERVING (so that balancers notice).
    #[arg(long, env = "SAGAMESH_DRAIN_DELAY", default_value = "0s", value_parser = parse_duration, value_name = "TIME")]
    pub drain_delay: Duration,
    /// Serve gRPC reflection (v1 and v1alpha).
    #[arg(long, env = "SAGAMESH_REFLECTION", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub reflection: bool,
    /// Shut down when stdin ends: a child so never outlives the launcher.
    #[arg(long, env = "SAGAMESH_EXIT_WITH_PARENT", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub exit_with_parent: bool,
    /// Once bound, write the addresses here as JSON: {"grpc":"127.0.0.1:PORT","admin":"127.0.0.1:PORT"}.
    #[arg(long, env = "SAGAMESH_ADDRESSES_FILE", value_name = "PATH")]
    pub addresses_file: Option<PathBuf>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
            max_request_bytes: 4 * 1024 * 1024,
            max_concurrent_requests: 4096,
            max_connections: 8192,
            max_connections_per_address: 512,
            default_deadline: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(8),
            drain_delay: Duration::ZERO,
            reflection: true,
            exit_with_parent: false,
            addresses_file: None,
        }
    }
}

/// The way to other services.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct MeshConfig {
    /// Reach every other service through the sidecar that listens here; their addresses are then names of the mesh, such as `orders.sagamesh.svc.cluster.local:50051`. Without it they are dialled directly.
    #[arg(long, env = "SAGAMESH_MESH_OUTBOUND", value_name = "ADDRESS")]
    pub mesh_outbound: Option<SocketAddr>,
}

/// Logs and traces.
#[derive(clap::Args, Clone, Debug)]
pub struct TelemetryConfig {
    /// Which events are logged, as `level` or `target=level,...`.
    #[arg(long, env = "RUST_LOG", default_value = DEFAULT_FILTER, hide_default_value = true, value_name = "FILTER")]
    pub log_filter: String,
    /// How log lines are written to stderr.
    #[arg(long, env = "SAGAMESH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Send traces to this OTLP collector (gRPC), for example http://127.0.0.1:4317. Without it no traces are sent.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

/// What is logged by default: the transport's own spans are kept out, they cost 6 % of a busy server's time.
pub const DEFAULT_FILTER: &str =
    "info,h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,sqlx=warn,opentelemetry=warn";

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_filter: DEFAULT_FILTER.to_owned(),
            log_format: LogFormat::Text,
            otlp_endpoint: None,
        }
    }
}

/// How log lines are written.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Parses `250ms`, `5s`, `2m`, `1h`; a bare number is seconds.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let scale_millis: f64 = match unit {
        "ms" => 1.0,
        "" | "s" => 1000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => {
            return Err(format!(
                "unknown unit `{unit}`: write for example 250ms, 5s, 2m or 1h"
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a time: write for example 250ms, 5s, 2m or 1h"))?;
    Duration::try_from_secs_f64(number * scale_millis / 1000.0)
        .map_err(|_| format!("`{text}` is out of range"))
}

/// Parses `512KiB`, `4MiB`, `1GiB`; a bare number is bytes.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let scale: usize = match unit {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        _ => {
            return Err(format!(
                "unknown unit `{unit}`: write for example 65536, 512KiB or 4MiB"
            ));
        }
    };
    let number: usize = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size: write for example 65536, 512KiB or 4MiB"))?;
    number
        .checked_mul(scale)
        .ok_or_else(|| format!("`{text}` is out of range"))
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        chassis: ChassisConfig,
    }

    #[test]
    fn defaults_of_flags_and_of_the_structs_agree() {
        let parsed = Cli::parse_from(["x"]).chassis;
        assert_eq!(
            format!("{:?}", parsed.server),
            format!("{:?}", ServerConfig::default())
        );
        assert_eq!(
            format!("{:?}", parsed.telemetry),
            format!("{:?}", TelemetryConfig::default())
        );
        assert_eq!(
            format!("{:?}", parsed.mesh),
            format!("{:?}", MeshConfig::default())
        );
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        assert!(parse_duration("5 weeks").is_err());
        assert!(parse_duration("").is_err());
        assert_eq!(parse_bytes("4MiB"), Ok(4 << 20));
        assert!(parse_bytes("4MB").is_err());
        assert!(parse_bytes("99999999999GiB").is_err());
    }
}
