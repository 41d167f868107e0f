//! The gateway as a process.

use std::process::ExitCode;

use clap::Parser as _;

/// Much of what a service does is small messages: this takes a seventh less CPU for them than the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = gateway::Config::parse();
    chassis::main("gateway", config.chassis.clone(), |process| {
        gateway::run(config, process)
    })
}
