//! The gateway as a process.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    let config = gateway::Config::parse();
    chassis::run("gateway", config.chassis.clone(), |process| {
        gateway::run(config, process)
    })
}
