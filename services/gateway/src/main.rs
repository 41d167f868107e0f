//! The gateway as a process.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let config = gateway::Config::parse();
    chassis::main("gateway", config.chassis.clone(), |process| {
        gateway::run(config, process)
    })
}
