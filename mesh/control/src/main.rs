//! meshd: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use mesh_control::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    chassis::main("meshd", config.chassis.clone(), move |process| {
        mesh_control::run(config, process)
    })
}
