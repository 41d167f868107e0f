//! The inventory service.

use std::process::ExitCode;

use clap::Parser as _;
use inventory::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    chassis::main(inventory::SERVICE, config.chassis.clone(), move |process| {
        inventory::run(config, process)
    })
}
