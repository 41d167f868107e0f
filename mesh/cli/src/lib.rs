//! The launcher and the operator's tool of sagamesh: the command `sagamesh`.
//!
//! It starts the services as processes and talks to them over gRPC; it links none of them.

mod args;
mod backup;
mod commands;
mod connect;
mod demo;
mod failure;
mod launcher;
mod metrics;
mod output;
mod system;
mod timeline;
mod token;

use std::process::ExitCode;

use clap::Parser as _;

/// Runs the command line and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    // Databases, logs, backups: whatever this program or a process that it starts makes is for its owner alone, whichever
    // library makes it.
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::from(error)),
    };
    let outcome = runtime.block_on(commands::run(arguments));
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}
