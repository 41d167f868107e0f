//! Flags and environment of the coordinator.

use std::time::Duration;

use chassis::ChassisConfig;
use chassis::config::{parse_bytes, parse_duration};
use ledger::StoreConfig;

/// The coordinator's configuration.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "coordinator",
    about = "Runs durable sagas: every one ends done or undone"
)]
pub struct Config {
    /// What every process has.
    #[command(flatten)]
    pub chassis: ChassisConfig,
    /// Where the log is kept.
    #[command(flatten)]
    pub store: StoreConfig,
    /// The coordinator's own settings.
    #[command(flatten)]
    pub options: Options,
}

/// The coordinator's own settings.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Participants that definitions may name, besides those made known with PutParticipant.
    #[arg(
        long,
        env = "SAGAMESH_PARTICIPANTS",
        value_delimiter = ',',
        default_value = "orders,inventory,payments,notifications",
        value_name = "NAMES"
    )]
    pub participants: Vec<String>,
    /// Versions of the participants' protocol. No setting: tests play older and newer coordinators with it.
    #[arg(skip = crate::api::VERSIONS)]
    pub protocol: std::ops::RangeInclusive<u32>,
    /// Name of this replica, as participants see it.
    #[arg(
        long,
        env = "SAGAMESH_REPLICA",
        default_value = "coordinator-0",
        value_name = "NAME"
    )]
    pub replica: String,
    /// Where participants and the other replicas reach this one: http://HOST:PORT. Needed with several replicas, which need PostgreSQL.
    #[arg(
        long,
        env = "SAGAMESH_REPLICA_ADDRESS",
        default_value = "",
        value_name = "URL"
    )]
    pub replica_address: String,
    /// With PostgreSQL: how long a replica that gives no sign of life keeps its sagas before another one takes them over. From 1 s.
    #[arg(long, env = "SAGAMESH_LEASE", default_value = "5s", value_parser = parse_lease, value_name = "TIME")]
    pub lease: Duration,
    /// How often open sagas that memory has missed are looked for.
    #[arg(long, env = "SAGAMESH_SCAN_INTERVAL", default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    pub scan_interval: Duration,
    /// Most bytes of a saga's input, a signal or a result.
    #[arg(long, env = "SAGAMESH_MAX_PAYLOAD_BYTES", default_value = "1MiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub max_payload_bytes: usize,
    /// Most sagas that work is under way for; more are refused with RESOURCE_EXHAUSTED. Sagas that wait for a time, a signal or an
    /// operator do not count.
    #[arg(
        long,
        env = "SAGAMESH_MAX_ACTIVE_SAGAS",
        default_value_t = 50_000,
        value_name = "N"
    )]
    pub max_active_sagas: usize,
    /// Most bytes of inputs, outputs and signals of those sagas together; more are refused with RESOURCE_EXHAUSTED. Memory holds them two or three times.
    #[arg(long, env = "SAGAMESH_MAX_ACTIVE_BYTES", default_value = "48MiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub max_active_bytes: usize,
    /// Most starts that may wait to be recorded; more are refused with RESOURCE_EXHAUSTED.
    #[arg(
        long,
        env = "SAGAMESH_MAX_WAITING_STARTS",
        default_value_t = 8_192,
        value_name = "N"
    )]
    pub max_waiting_starts: usize,
    /// How often participants and the coordinator send a message at least.
    #[arg(long, env = "SAGAMESH_HEARTBEAT_INTERVAL", default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
    pub heartbeat_interval: Duration,
    /// How long a circuit breaker stays open before one probe.
    #[arg(long, env = "SAGAMESH_BREAKER_RECOVERY", default_value = "60s", value_parser = parse_duration, value_name = "TIME")]
    pub breaker_recovery: Duration,
    /// How often ended sagas beyond their retention are looked for.
    #[arg(long, env = "SAGAMESH_RETENTION_INTERVAL", default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    pub retention_interval: Duration,
    /// How often alarms are checked: active definitions without a connected handler.
    #[arg(long, env = "SAGAMESH_ALARM_INTERVAL", default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub alarm_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            participants: ["orders", "inventory", "payments", "notifications"]
                .map(str::to_owned)
                .to_vec(),
            protocol: crate::api::VERSIONS,
            replica: "coordinator-0".to_owned(),
            replica_address: String::new(),
            lease: Duration::from_secs(5),
            scan_interval: Duration::from_secs(30),
            max_payload_bytes: 1024 * 1024,
            max_active_sagas: 50_000,
            max_active_bytes: 48 * 1024 * 1024,
            max_waiting_starts: 8_192,
            heartbeat_interval: Duration::from_secs(5),
            breaker_recovery: Duration::from_secs(60),
            retention_interval: Duration::from_secs(30),
            alarm_interval: Duration::from_secs(10),
        }
    }
}

fn parse_lease(text: &str) -> Result<Duration, String> {
    let lease = parse_duration(text).map_err(|error| error.to_string())?;
    if lease < Duration::from_secs(1) {
        return Err("a lease of less than 1s would be lost to any pause".to_owned());
    }
    Ok(lease)
}
