//! meshd: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use mesh_control::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    if config.print_service_config {
        return match mesh_control::printed_service_config(&config.options.policy_dir) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("meshd: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    chassis::main("meshd", config.chassis.clone(), move |process| {
        mesh_control::run(config, process)
    })
}
