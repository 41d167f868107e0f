//! The command line.

use std::path::PathBuf;

use chassis::ChassisConfig;

/// Measures sagas on this machine: throughput, latency, CPU and memory.
#[derive(Debug, clap::Parser)]
#[command(name = "bench-sagas")]
pub struct Args {
    /// What every mode takes.
    #[command(flatten)]
    pub common: Common,
    /// Of the default mode.
    #[command(flatten)]
    pub throughput: Throughput,
    /// What to measure.
    #[command(subcommand)]
    pub mode: Option<Mode>,
}

/// What every mode takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// The coordinator's binary; by default the one beside this binary.
    #[arg(
        long,
        env = "SAGAMESH_COORDINATOR_BIN",
        value_name = "FILE",
        global = true
    )]
    pub coordinator: Option<PathBuf>,
    /// Folder for the data, on the disk to measure; emptied afterwards. By default beside this binary.
    #[arg(long, env = "SAGAMESH_BENCH_DIR", value_name = "FOLDER", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Keep data and logs.
    #[arg(long, global = true)]
    pub keep: bool,
}

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Mode {
    /// Sagas per second, latency and CPU: the default.
    Throughput(Throughput),
    /// A page of the list with a million ended sagas on disk.
    List(List),
    /// Sagas in flight, resumed after kill -9.
    Recovery(Recovery),
    /// The whole shop: the first order after `sagamesh up`, and orders per second through REST.
    Shop(Shop),
    /// What each process of the shop needs at a steady rate of orders.
    Resources(Resources),
    /// Starts at a multiple of what the coordinator can do.
    Overload(Overload),
    /// The participants of a measurement, as a process of their own.
    #[command(hide = true)]
    Participant(Box<Participant>),
}

/// Sagas per second.
#[derive(Debug, Clone, clap::Args)]
pub struct Throughput {
    /// Closed-loop clients, one run each.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,8,64,256",
        value_name = "N"
    )]
    pub clients: Vec<usize>,
    /// Length of each run.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub seconds: f64,
    /// Length of the warm-up before each run.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub warm_up: f64,
    /// Only runs whose name contains this: memory, durable, rejected, stream.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
}

/// A page of the list.
#[derive(Debug, Clone, clap::Args)]
pub struct List {
    /// Ended sagas to write first.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub sagas: u64,
    /// Pages to time.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub pages: u32,
}

/// Resumed after kill -9.
#[derive(Debug, Clone, clap::Args)]
pub struct Recovery {
    /// Sagas in flight.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub sagas: u64,
    /// Ended sagas on disk besides.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub ended: u64,
}

/// More than there is room for.
#[derive(Debug, Clone, clap::Args)]
pub struct Overload {
    /// How much more is offered than can be done.
    #[arg(long, default_value_t = 3.0, value_name = "TIMES")]
    pub times: f64,
    /// For how long.
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    pub seconds: f64,
}

/// The whole shop.
#[derive(Debug, Clone, clap::Args)]
pub struct Shop {
    /// The launcher's binary; by default the one beside this binary.
    #[arg(long, env = "SAGAMESH_BIN", value_name = "FILE")]
    pub sagamesh: Option<PathBuf>,
    /// Closed-loop customers, one run each.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,8,64",
        value_name = "N"
    )]
    pub clients: Vec<usize>,
    /// Length of each run.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub seconds: f64,
}

/// What each process needs.
#[derive(Debug, Clone, clap::Args)]
pub struct Resources {
    /// The launcher's binary; by default the one beside this binary.
    #[arg(long, env = "SAGAMESH_BIN", value_name = "FILE")]
    pub sagamesh: Option<PathBuf>,
    /// Orders a second.
    #[arg(long, default_value_t = 20.0, value_name = "N")]
    pub rate: f64,
    /// For how long.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub seconds: f64,
}

/// Participants as a process.
#[derive(Debug, Clone, clap::Args)]
pub struct Participant {
    /// Addresses, limits and telemetry.
    #[command(flatten)]
    pub chassis: ChassisConfig,
    /// Their names.
    #[arg(long, value_delimiter = ',')]
    pub names: Vec<String>,
    /// Where the coordinator is.
    #[arg(long)]
    pub address: String,
    /// Keep what is done in a ledger below this folder; without it, in memory.
    #[arg(long)]
    pub ledger: Option<PathBuf>,
}
