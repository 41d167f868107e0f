//! The payments service.

use clap::Parser as _;
use payments::Config;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    chassis::run(payments::SERVICE, config.chassis.clone(), move |process| {
        payments::run(config, process)
    })
}
