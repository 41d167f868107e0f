//! The coordinator's process.

use clap::Parser as _;
use coordinator::Config;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    chassis::run("coordinator", config.chassis.clone(), move |process| {
        coordinator::run(config, process)
    })
}
