//! The payments service.

use std::process::ExitCode;

use clap::Parser as _;
use payments::Config;

/// Much of what a service does is small messages: this takes a seventh less CPU for them than the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = Config::parse();
    chassis::main(payments::SERVICE, config.chassis.clone(), move |process| {
        payments::run(config, process)
    })
}
