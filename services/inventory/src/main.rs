//! The inventory service.

use clap::Parser as _;
use inventory::Config;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    chassis::run(inventory::SERVICE, config.chassis.clone(), move |process| {
        inventory::run(config, process)
    })
}
