//! The orders service: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use orders::Config;

/// Much of what a service does is small messages: this takes a seventh less CPU for them than the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = Config::parse();
    let chassis = config.chassis.clone();
    chassis::main("orders", chassis, |process| orders::run(config, process))
}
