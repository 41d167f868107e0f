//! The orders service: see the library.

use clap::Parser as _;
use orders::Config;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let chassis = config.chassis.clone();
    chassis::run("orders", chassis, |process| orders::run(config, process))
}
