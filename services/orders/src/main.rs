//! The orders service: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use orders::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    let chassis = config.chassis.clone();
    chassis::main("orders", chassis, |process| orders::run(config, process))
}
