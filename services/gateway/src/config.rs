//! What the gateway can be told.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use chassis::config::{parse_bytes, parse_duration};

/// Flags and environment of the gateway.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "gateway",
    version,
    about = "REST, gRPC and gRPC-Web on one port, with JWT, rate limits and composition."
)]
#[command(mut_arg("listen", |listen| listen.default_value("127.0.0.1:8080")))]
pub struct Config {
    /// What every process has; `--listen` is the public port.
    #[command(flatten)]
    pub chassis: chassis::ChassisConfig,
    /// Address of the orders service.
    #[arg(
        long,
        env = "SAGAMESH_ORDERS",
        default_value = "http://127.0.0.1:50052",
        value_name = "URL"
    )]
    pub orders: String,
    /// Address of the inventory service.
    #[arg(
        long,
        env = "SAGAMESH_INVENTORY",
        default_value = "http://127.0.0.1:50053",
        value_name = "URL"
    )]
    pub inventory: String,
    /// Address of the payments service.
    #[arg(
        long,
        env = "SAGAMESH_PAYMENTS",
        default_value = "http://127.0.0.1:50054",
        value_name = "URL"
    )]
    pub payments: String,
    /// Address of the notifications service.
    #[arg(
        long,
        env = "SAGAMESH_NOTIFICATIONS",
        default_value = "http://127.0.0.1:50055",
        value_name = "URL"
    )]
    pub notifications: String,
    /// Address of the coordinator.
    #[arg(
        long,
        env = "SAGAMESH_COORDINATOR",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL"
    )]
    pub coordinator: String,
    /// Who may come in.
    #[command(flatten)]
    pub auth: AuthConfig,
    /// How often, how much, from where.
    #[command(flatten)]
    pub limits: LimitConfig,
}

/// Who may come in.
#[derive(clap::Args, Clone, Debug)]
pub struct AuthConfig {
    /// JSON Web Key Set with the public keys of whoever signs tokens. Without it a development key pair is made in the data folder on the first start.
    #[arg(long, env = "SAGAMESH_JWKS", value_name = "PATH")]
    pub jwks: Option<PathBuf>,
    /// How often the key set's file is looked at for changes; units ms, s, m.
    #[arg(long, env = "SAGAMESH_JWKS_REFRESH", default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub jwks_refresh: Duration,
    /// Where the development key pair lives (`dev-signing-key.pem`, `jwks.json`).
    #[arg(
        id = "gateway_data_dir",
        long = "data-dir",
        env = "SAGAMESH_DATA_DIR",
        default_value = "data",
        value_name = "PATH"
    )]
    pub data_dir: PathBuf,
    /// Required `iss` of every token.
    #[arg(
        long,
        env = "SAGAMESH_JWT_ISSUER",
        default_value = "sagamesh",
        value_name = "NAME"
    )]
    pub issuer: String,
    /// Required `aud` of every token.
    #[arg(
        long,
        env = "SAGAMESH_JWT_AUDIENCE",
        default_value = "sagamesh-gateway",
        value_name = "NAME"
    )]
    pub audience: String,
}

/// How often, how much, from where.
#[derive(clap::Args, Clone, Debug)]
pub struct LimitConfig {
    /// Requests a second that one subject may make, on average.
    #[arg(
        long,
        env = "SAGAMESH_RATE_PER_SUBJECT",
        default_value = "200",
        value_name = "N"
    )]
    pub rate_per_subject: NonZeroU32,
    /// Requests that one subject may make at once before the average counts.
    #[arg(
        long,
        env = "SAGAMESH_BURST_PER_SUBJECT",
        default_value = "400",
        value_name = "N"
    )]
    pub burst_per_subject: NonZeroU32,
    /// Requests and streams that one subject may have under way at a time.
    #[arg(
        long,
        env = "SAGAMESH_MAX_CONCURRENT_PER_SUBJECT",
        default_value = "512",
        value_name = "N"
    )]
    pub max_concurrent_per_subject: NonZeroU32,
    /// Requests without a valid token under way at a time, reflection included: a share of their own.
    #[arg(
        long,
        env = "SAGAMESH_MAX_ANONYMOUS",
        default_value_t = 256,
        value_name = "N"
    )]
    pub max_anonymous: usize,
    /// Requests without a valid token that one address may have under way at a time.
    #[arg(
        long,
        env = "SAGAMESH_MAX_ANONYMOUS_PER_ADDRESS",
        default_value_t = 64,
        value_name = "N"
    )]
    pub max_anonymous_per_address: usize,
    /// Requests a second that one address may make, on average.
    #[arg(
        long,
        env = "SAGAMESH_RATE_PER_ADDRESS",
        default_value = "1000",
        value_name = "N"
    )]
    pub rate_per_address: NonZeroU32,
    /// Requests that one address may make at once before the average counts.
    #[arg(
        long,
        env = "SAGAMESH_BURST_PER_ADDRESS",
        default_value = "2000",
        value_name = "N"
    )]
    pub burst_per_address: NonZeroU32,
    /// Take the client's address from the last entry of X-Forwarded-For: only behind a proxy that sets it.
    #[arg(long, env = "SAGAMESH_TRUST_FORWARDED_FOR", default_value_t = false)]
    pub trust_forwarded_for: bool,
    /// Largest body, or gRPC message; units B, KiB, MiB.
    #[arg(long, env = "SAGAMESH_MAX_BODY_BYTES", default_value = "256KiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub max_body_bytes: usize,
    /// The longest that one request may take, `Prefer: wait` not counted; units ms, s, m.
    #[arg(long, env = "SAGAMESH_REQUEST_TIMEOUT", default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub request_timeout: Duration,
    /// Origins whose pages may call from a browser, separated by commas; `*` for all.
    #[arg(
        long,
        env = "SAGAMESH_CORS_ORIGINS",
        default_value = "*",
        value_delimiter = ',',
        value_name = "ORIGIN"
    )]
    pub cors_origins: Vec<String>,
}
