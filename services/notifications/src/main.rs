//! The notifications service: see the library.

use clap::Parser as _;
use notifications::Config;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let chassis = config.chassis.clone();
    chassis::run("notifications", chassis, |process| {
        notifications::run(config, process)
    })
}
