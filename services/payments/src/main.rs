//! The payments service.

use std::process::ExitCode;

use clap::Parser as _;
use payments::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    chassis::main(payments::SERVICE, config.chassis.clone(), move |process| {
        payments::run(config, process)
    })
}
