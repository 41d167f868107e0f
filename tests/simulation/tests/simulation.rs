//! A few seeds with every fault; that a seed is one history; and that every planted bug is found.

use sagamesh_simulation::bugs::Bug;
use sagamesh_simulation::{Report, Setup, run};

fn first_violation(report: &Report) -> Option<String> {
    let violation = report.violations.first()?;
    Some(format!(
        "{violation}\nsee it with: make sim ARGS=\"--seed {} --history\"",
        report.seed
    ))
}

#[test]
fn a_few_seeds_keep_every_promise_and_run_the_same_way_twice() {
    for seed in 1..=4 {
        let setup = Setup::of_seed(seed);
        let report = run(seed, &setup);
        assert!(
            report.sagas > 10 && report.faults > 10,
            "seed {seed}: too little happened"
        );
        assert_eq!(first_violation(&report), None, "seed {seed}");
        let again = run(seed, &setup);
        let both = report.history.iter().zip(&again.history);
        let parted = both
            .map(|(one, other)| (one.to_string(), other.to_string()))
            .find(|(one, other)| one != other);
        assert_eq!(parted, None, "seed {seed}: the second run was another one");
        assert_eq!(
            report.trace, again.trace,
            "seed {seed}: the network differed"
        );
    }
}

#[test]
fn other_seeds_have_other_histories() {
    let setup = Setup::default();
    assert_ne!(run(1, &setup).trace, run(2, &setup).trace);
}

/// The promises can see: each bug breaks one of those that it is about, within a few hundred seeds.
#[test]
fn every_planted_bug_is_found() {
    const SEEDS: u64 = 300;
    let look = |(bug, promises): (Bug, &'static [u8])| {
        let found = (1..=SEEDS).find_map(|seed| {
            let setup = Setup {
                bug: Some(bug),
                sagas: 40,
                ..Setup::default()
            };
            let setup = match bug.needs_replicas() {
                true => Setup {
                    replicas: 2 + seed % 2,
                    ..setup
                },
                false => setup.with_replicas_of(seed),
            };
            let report = run(seed, &setup);
            let mut violations = report.violations.into_iter();
            let violation = violations.find(|it| promises.contains(&it.promise))?;
            Some((seed, violation))
        });
        let Some((seed, violation)) = found else {
            panic!("{bug:?} was not found in {SEEDS} seeds");
        };
        println!("{bug:?}: seed {seed}: {violation}");
    };
    std::thread::scope(|scope| {
        for half in Bug::ALL.chunks(Bug::ALL.len().div_ceil(2)) {
            scope.spawn(move || half.iter().copied().for_each(look));
        }
    });
}
