//! The inventory service.

use std::process::ExitCode;

use clap::Parser as _;
use inventory::Config;

/// Much of what a service does is small messages: this takes a seventh less CPU for them than the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = Config::parse();
    chassis::main(inventory::SERVICE, config.chassis.clone(), move |process| {
        inventory::run(config, process)
    })
}
