//! The commands, one module each.

pub(crate) mod definitions;
pub(crate) mod mesh;
pub(crate) mod orders;
pub(crate) mod participants;
pub(crate) mod sagas;
pub(crate) mod status;
pub(crate) mod stock;
pub(crate) mod up;

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::args::{Arguments, Command, Common};
use crate::launcher::namespace;
use crate::{backup, demo, output, token};

/// Runs the command that was given.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    if arguments.command.asks_services() {
        namespace::join(&common.data_dir)?;
    }
    match arguments.command {
        Command::Up(up) => up::run(common, up).await,
        Command::Status => status::run(common).await,
        Command::Demo(demo) => demo::run(demo).await,
        Command::Token(token) => make_token(common, &token),
        Command::Order(command) => orders::run(common, command).await,
        Command::Stock(command) => stock::run(common, command).await,
        Command::Books => stock::books(common).await,
        Command::Saga(command) => sagas::run(common, command).await,
        Command::Definitions(command) => definitions::run(common, command).await,
        Command::Participants(command) => participants::run(common, command).await,
        Command::Mesh(command) => mesh::run(common, command).await,
        Command::Backup { folder } => backup::backup(common, &folder).await,
        Command::Restore { folder } => backup::restore(common, &folder).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "sagamesh", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn make_token(common: &Common, token: &crate::args::Token) -> anyhow::Result<ExitCode> {
    output::line(&token::make(
        &common.data_dir,
        &token.names,
        &token.sub,
        &token.scopes,
        token.ttl,
    )?);
    Ok(ExitCode::SUCCESS)
}
