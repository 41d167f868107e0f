//! The `loyalty` service.

use clap::Parser as _;
use participant_example::Config;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    chassis::run("loyalty", config.chassis.clone(), |process| {
        participant_example::run(config, process)
    })
}
