//! Runs many seeds: `sim --seeds 200`, or one of them with its whole history: `sim --seed 17 --history`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use sagamesh_simulation::bugs::Bug;
use sagamesh_simulation::points::{Case, Points, cases, every_point};
use sagamesh_simulation::{Report, Setup, run};
use tracing_subscriber::filter::LevelFilter;

#[derive(Debug, Parser)]
#[command(name = "sim", about = "Runs the simulation for many seeds")]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this one.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the whole history.
    #[arg(long)]
    history: bool,
    /// How many seeds are run twice, to see that both runs are the same.
    #[arg(long, default_value_t = 10)]
    twice: u64,
    /// Plant a bug, to see what is found.
    #[arg(long)]
    bug: Option<Bug>,
    /// Instead of seeds: stop at every point of every saga of up to so many steps.
    #[arg(long)]
    points: Option<usize>,
    /// Print what the processes log, from this level on: warn, info or debug. Best with one seed.
    #[arg(long)]
    log: Option<LevelFilter>,
    /// How many run side by side.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(level) = args.log {
        let log = tracing_subscriber::fmt().with_max_level(level);
        log.with_writer(std::io::stderr).init();
    }
    if let Some(steps) = args.points {
        return stop_everywhere(steps, args.threads);
    }
    let setup = |seed| Setup {
        bug: args.bug,
        ..Setup::of_seed(seed)
    };
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.first..args.first.saturating_add(args.seeds),
    };
    let next = AtomicU64::new(seeds.start);
    let totals = Mutex::new((0_u64, 0_u64, 0_u64, 0_usize));
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let setup = setup(seed);
                    let report = run(seed, &setup);
                    let again = seed - seeds.start < args.twice;
                    let violations = show(&report, again.then(|| run(seed, &setup)), args.history);
                    let mut totals = totals.lock().unwrap_or_else(|broken| broken.into_inner());
                    totals.0 += 1;
                    totals.1 += report.sagas as u64;
                    totals.2 += report.faults;
                    totals.3 += violations;
                }
            });
        }
    });
    let (seeds, sagas, faults, violations) =
        *totals.lock().unwrap_or_else(|broken| broken.into_inner());
    println!("sim seeds={seeds} sagas={sagas} faults={faults} violations={violations}");
    if violations == 0 && sagas > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Every crash point of every small saga.
fn stop_everywhere(steps: usize, threads: usize) -> ExitCode {
    let mut total = Points::default();
    for steps in 1..=steps {
        let started = Instant::now();
        let (cases, all) = cases(steps);
        println!("steps={steps} cases={} of {all}", cases.len());
        let seen = stop_in(&cases, threads);
        println!(
            "steps={steps} cases={} points={} missed={} violations={} seconds={}",
            seen.cases,
            seen.reached,
            seen.missed,
            seen.wrong.len(),
            started.elapsed().as_secs()
        );
        total.add(seen);
    }
    println!(
        "sim cases={} points={} missed={} violations={}",
        total.cases,
        total.reached,
        total.missed,
        total.wrong.len()
    );
    if total.wrong.is_empty() && total.missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn stop_in(cases: &[Case], threads: usize) -> Points {
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Points::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut seen = Points::default();
                    every_point(case, &mut seen);
                    for wrong in &seen.wrong {
                        println!("{wrong}");
                    }
                    let mut total = total.lock().unwrap_or_else(|broken| broken.into_inner());
                    total.add(seen);
                    if total.cases.is_multiple_of(100) {
                        println!("  cases={} points={}", total.cases, total.reached);
                    }
                }
            });
        }
    });
    total
        .into_inner()
        .unwrap_or_else(|broken| broken.into_inner())
}

/// Prints what is wrong; returns how much.
fn show(report: &Report, again: Option<Report>, history: bool) -> usize {
    let mut wrong = report.violations.len();
    for violation in report.violations.iter().take(20) {
        println!("seed {}: {violation}", report.seed);
    }
    if let Some(again) = again
        && again.trace != report.trace
    {
        wrong += 1;
        println!("seed {}: the second run was another one", report.seed);
        let first = report.history.iter().zip(&again.history);
        // The first place where they part says more than anything else.
        if let Some((one, other)) = first
            .map(|(one, other)| (one.to_string(), other.to_string()))
            .find(|(one, other)| one != other)
        {
            println!("  first:  {one}\n  second: {other}");
        }
    }
    if history {
        for entry in &report.history {
            println!("{entry}");
        }
    }
    wrong
}
