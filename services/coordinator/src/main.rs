//! The coordinator's process.

use std::process::ExitCode;

use clap::Parser as _;
use coordinator::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    chassis::main("coordinator", config.chassis.clone(), move |process| {
        coordinator::run(config, process)
    })
}
