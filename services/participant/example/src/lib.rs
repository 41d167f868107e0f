#![doc = include_str!("../README.md")]

mod points;
mod steps;

pub use points::Points;
pub use steps::participant;

use std::path::PathBuf;

use chassis::{ChassisConfig, Process};
use tonic::service::Routes;

/// Configuration of the `loyalty` service.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "loyalty", about = "Loyalty points, as a participant in sagas")]
pub struct Config {
    /// Addresses, limits and telemetry.
    #[command(flatten)]
    pub chassis: ChassisConfig,
    /// The coordinator's address; several replicas with commas between them.
    #[arg(
        long,
        env = "SAGAMESH_COORDINATOR",
        default_value = "http://127.0.0.1:50051"
    )]
    pub coordinator: String,
    /// The database file.
    #[arg(long, env = "LOYALTY_DATABASE", default_value = "loyalty.db")]
    pub database: PathBuf,
}

/// Opens the database, connects to the coordinator and serves health until shutdown.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let points = Points::open(&config.database).await?;
    let forgetting = points
        .clone()
        .forget_old_barrier_rows(process.env.clock.clone(), process.tasks.draining());
    process.tasks.spawn("forget-old-barrier-rows", forgetting);
    participant(&points, &config.coordinator, &process.env).run(&process.tasks)?;
    process.serve(Routes::default(), &[]).await
}
