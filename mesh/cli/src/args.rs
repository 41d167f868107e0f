//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::commands::{definitions, mesh, orders, participants, sagas, stock};
use crate::launcher::mesh::Sidecar;
use crate::output::Format;

/// Runs the sagamesh system, and talks to it.
#[derive(Debug, Parser)]
#[command(name = "sagamesh", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 it did not work; 2 the command line makes no sense; 3 the system or a service does not answer;
4 the system refused (bad input, not found, not possible now); 5 it ended otherwise than hoped for (an order rejected,
a saga undone, a scenario of the demo failed).";

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// The system's data folder: names the system to talk to
    #[arg(
        long,
        global = true,
        env = "SAGAMESH_DATA_DIR",
        default_value = "./data",
        value_name = "FOLDER"
    )]
    pub(crate) data_dir: PathBuf,
    /// Tables for people, or protobuf's JSON for programs
    #[arg(long, short, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the system and keep it running until Ctrl-C
    Up(Up),
    /// Show the processes of the running system
    Status,
    /// Play the shop's scenarios on a temporary system of their own and check how each ends
    Demo(Demo),
    /// Print a development token
    Token(Token),
    /// Place orders and follow them
    #[command(subcommand)]
    Order(orders::Command),
    /// See and fill the stock
    #[command(subcommand)]
    Stock(stock::Command),
    /// Show the books of payments and whether they balance
    Books,
    /// Start, see and mend sagas
    #[command(subcommand)]
    Saga(sagas::Command),
    /// Register and steer definitions of sagas
    #[command(subcommand)]
    Definitions(definitions::Command),
    /// See and steer the services that carry out steps
    #[command(subcommand)]
    Participants(participants::Command),
    /// See what the mesh between the services knows, allows and does
    #[command(subcommand)]
    Mesh(mesh::Command),
    /// Copy the SQLite databases of a system, also while it runs
    Backup {
        /// A new or empty folder for the copy
        folder: PathBuf,
    },
    /// Put a backup in place of a stopped system's databases; the replaced ones are kept aside
    Restore {
        /// The folder that `sagamesh backup` wrote
        folder: PathBuf,
    },
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

impl Command {
    /// Whether it talks to a system that runs already.
    pub(crate) fn asks_services(&self) -> bool {
        match self {
            Command::Status
            | Command::Order(_)
            | Command::Stock(_)
            | Command::Books
            | Command::Saga(_)
            | Command::Definitions(_)
            | Command::Participants(_)
            | Command::Mesh(_) => true,
            Command::Up(_)
            | Command::Demo(_)
            | Command::Token(_)
            | Command::Backup { .. }
            | Command::Restore { .. }
            | Command::Completions { .. } => false,
        }
    }
}

/// Where the services' binaries are.
#[derive(Clone, Debug, Args)]
pub(crate) struct Binaries {
    /// Folder of the services' binaries [default: where sagamesh itself is]
    #[arg(long, env = "SAGAMESH_BIN_DIR", value_name = "FOLDER")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Longest wait until everything is ready, in seconds
    #[arg(long, default_value = "60", value_parser = seconds, value_name = "SECONDS")]
    pub(crate) start_timeout: Duration,
}

/// What stands between the processes.
#[derive(Clone, Debug, Args)]
pub(crate) struct MeshOptions {
    /// The sidecar beside every process: embedded is this project's own, linkerd:PATH is Linkerd's proxy; with none they talk directly
    #[arg(
        long,
        env = "SAGAMESH_SIDECAR",
        default_value = "embedded",
        value_name = "WHICH"
    )]
    pub(crate) sidecar: Sidecar,
    /// Folder of policy files to use in place of those in the data folder
    #[arg(long, env = "SAGAMESH_POLICY_DIR", value_name = "FOLDER")]
    pub(crate) policy_dir: Option<PathBuf>,
}

/// Options of `up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Port of the gateway on 127.0.0.1; 0 takes a free one
    #[arg(long, env = "SAGAMESH_PORT", default_value = "8080")]
    pub(crate) port: u16,
    /// Keep the data in this PostgreSQL server instead of SQLite files: one database per service, made when missing
    #[arg(
        long,
        env = "SAGAMESH_POSTGRES",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) postgres: Option<String>,
    /// What the names of those databases begin with
    #[arg(long, default_value = "sagamesh", value_name = "NAME")]
    pub(crate) database_prefix: String,
    /// Run several of a service, for example gateway=2; those that have a database need --postgres
    #[arg(long, value_parser = replicas, value_delimiter = ',', value_name = "SERVICE=COUNT")]
    pub(crate) replicas: Vec<(String, u32)>,
    /// Start only these services, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) services: Vec<String>,
    /// Leave a new shop empty instead of filling it with a first stock
    #[arg(long)]
    pub(crate) empty: bool,
    #[command(flatten)]
    pub(crate) mesh: MeshOptions,
    #[command(flatten)]
    pub(crate) binaries: Binaries,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Play only the scenarios whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// Leave the temporary system's folder in place
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) mesh: MeshOptions,
    #[command(flatten)]
    pub(crate) binaries: Binaries,
}

/// Options of `token`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// Whose token it is
    #[arg(long, default_value = "alice", value_name = "NAME")]
    pub(crate) sub: String,
    /// What it allows, separated by blanks
    #[arg(long, default_value = crate::token::CUSTOMER_SCOPES, value_name = "SCOPES")]
    pub(crate) scopes: String,
    /// How long it is valid: 90s, 15m, 12h or 7d
    #[arg(long, default_value = "12h", value_parser = duration, value_name = "TIME")]
    pub(crate) ttl: Duration,
    #[command(flatten)]
    pub(crate) names: crate::token::Names,
}

fn replicas(text: &str) -> Result<(String, u32), String> {
    let (name, count) = text
        .split_once('=')
        .ok_or("write SERVICE=COUNT, for example orders=2")?;
    Ok((
        name.to_owned(),
        count
            .parse()
            .map_err(|_| format!("{count} is no number of replicas"))?,
    ))
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|count| *count >= 1)
        .map(Duration::from_secs)
        .ok_or_else(|| "write a number of seconds from 1".into())
}

/// `90s`, `15m`, `12h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no time: write 90s, 15m, 12h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count
        .checked_mul(factor)
        .filter(|all| (1..=315_360_000).contains(all))
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

/// `key=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in ["", "s", "12", "-1h", "0s", "99999999999d", "1é"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
