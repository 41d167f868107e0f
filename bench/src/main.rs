//! `bench-sagas`: how fast sagas run on this machine.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    sagamesh_bench::run(sagamesh_bench::Args::parse())
}
