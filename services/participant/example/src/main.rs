//! The `loyalty` service.

use std::process::ExitCode;

use clap::Parser as _;
use participant_example::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    chassis::main("loyalty", config.chassis.clone(), |process| {
        participant_example::run(config, process)
    })
}
