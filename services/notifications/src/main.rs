//! The notifications service: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use notifications::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    let chassis = config.chassis.clone();
    chassis::main("notifications", chassis, |process| {
        notifications::run(config, process)
    })
}
