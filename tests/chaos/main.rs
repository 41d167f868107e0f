//! `make chaos`: a whole system under a stream of orders, struck at random for some minutes; then the books of all its
//! services are compared. The last line is `chaos orders=N kills=N lost=N doubled=N stuck=N`.

mod disk;
mod faults;
mod relay;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use faults::{Faults, Store};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sagamesh_tests::campaign::{Customers, Outcome, rest_state};
use sagamesh_tests::{Options, System};

const USAGE: &str = "chaos [--minutes N] [--postgres] [--seed N]";
/// How long orders may take to end once nothing strikes any more. Longer than a circuit breaker stays open.
const PATIENCE: Duration = Duration::from_secs(180);

struct Arguments {
    time: Duration,
    postgres: bool,
    seed: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = arguments()?;
    if !arguments.postgres && !disk::is_small() {
        // A data folder that can be filled up; where the machine allows none, the disk stays as it is.
        if let Some(code) = disk::enter()? {
            return Ok(code);
        }
        println!("no disk can be filled up here (unshare -Urm is refused): that fault is left out");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(arguments))
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut arguments = Arguments {
        time: Duration::from_secs(60),
        postgres: false,
        seed: rand::random::<u64>() >> 32,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut number = || given.next().and_then(|text| text.parse::<f64>().ok());
        match name.as_str() {
            "--minutes" => {
                let minutes = number().context(USAGE)?;
                arguments.time = Duration::from_secs_f64(minutes * 60.0);
            }
            "--seed" => arguments.seed = number().context(USAGE)? as u64,
            "--postgres" => arguments.postgres = true,
            _ => anyhow::bail!(USAGE),
        }
    }
    Ok(arguments)
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let store = if arguments.postgres {
        let postgres = ledger::testing::postgres().await;
        Store::postgres(postgres.context("PostgreSQL is not on this machine")?).await?
    } else {
        Store::Sqlite
    };
    println!(
        "{} for {} s, seed {} (it fixes what happens, not when)",
        store.name(),
        arguments.time.as_secs(),
        arguments.seed
    );
    let system = System::start_with(Options {
        arguments: store.arguments(),
        // A circuit breaker is meant to open when a service dies; a minute of it would leave little to strike at.
        environment: vec![("SAGAMESH_BREAKER_RECOVERY", "1s")],
        folder: disk::folder(),
    })
    .await?;
    let customers = Customers::start(&system).await?;
    let mut faults = Faults::new(&store, StdRng::seed_from_u64(arguments.seed));
    let begun = Instant::now();
    while begun.elapsed() < arguments.time {
        let fault = faults.next();
        println!(
            "{:>4} s  {:>6} orders  {fault}",
            begun.elapsed().as_secs(),
            customers.accepted()
        );
        faults
            .strike(&fault, &system)
            .await
            .with_context(|| format!("{fault}, seed {}", arguments.seed))?;
        customers
            .more(2)
            .await
            .with_context(|| format!("after {fault}, seed {}", arguments.seed))?;
    }
    let ids = customers.stop().await?;
    println!("{} orders were accepted; now all must end", ids.len());
    let outcome = Outcome::of(&system, &ids, PATIENCE).await?;
    let wrong = rest_state(&system).await?;
    let groups = [
        ("lost", &outcome.lost),
        ("doubled", &outcome.doubled),
        ("stuck", &outcome.stuck),
    ];
    for (what, orders) in groups {
        for order in orders {
            println!("{what}: {order}");
        }
    }
    if let Some(wrong) = &wrong {
        println!("at rest: {wrong}");
    }
    println!(
        "{} orders were refunded or refused for a fault, as an order may be",
        outcome.given_up.len()
    );
    let bad = wrong.is_some() || groups.iter().any(|(_, orders)| !orders.is_empty());
    println!(
        "chaos orders={} kills={} lost={} doubled={} stuck={}",
        ids.len(),
        faults.struck,
        outcome.lost.len(),
        outcome.doubled.len(),
        outcome.stuck.len()
    );
    if bad {
        eprintln!("its folder is {}", system.folder().display());
        // What is there to look at stays.
        std::mem::forget(system);
    } else {
        system.stop().await?;
    }
    Ok(ExitCode::from(u8::from(bad)))
}
