//! `bench-sagas`: how fast sagas run on this machine.

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    sagamesh_bench::run(sagamesh_bench::Args::parse())
}
