//! Load generators of sagamesh: real processes, real streams, a real disk.
//!
//! Nothing here is a test: numbers are printed, never asserted. CPU and memory come from `/proc`, so it runs on Linux.

mod args;
mod definition;
mod disk;
mod list;
mod load;
mod overload;
mod participants;
mod process;
mod recovery;
mod report;
mod resources;
mod shop;
mod system;
mod throughput;

pub use args::Args;

use args::Mode;

/// Runs what the command line asks for.
pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some(Mode::Participant(participant)) = args.mode {
        return participants::run(*participant);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let place = disk::Place::new(&args.common)?;
        match args.mode {
            None => throughput::run(&args.common, &place, &args.throughput).await,
            Some(Mode::Throughput(options)) => {
                throughput::run(&args.common, &place, &options).await
            }
            Some(Mode::List(options)) => list::run(&args.common, &place, &options).await,
            Some(Mode::Recovery(options)) => recovery::run(&args.common, &place, &options).await,
            Some(Mode::Overload(options)) => overload::run(&args.common, &place, &options).await,
            Some(Mode::Shop(options)) => shop::run(&place, &options).await,
            Some(Mode::Resources(options)) => resources::run(&place, &options).await,
            Some(Mode::Participant(_)) => Ok(()),
        }
    })
}
