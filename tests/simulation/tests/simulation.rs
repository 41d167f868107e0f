//! A few seeds, with every fault.

use sagamesh_simulation::{Setup, run};

#[test]
fn a_few_seeds_keep_every_promise() {
    for seed in 1..=3 {
        let report = run(seed, &Setup::default());
        assert!(report.sagas > 0 && report.faults > 0);
        assert!(
            report.violations.is_empty(),
            "seed {seed}: {}",
            report.violations[0]
        );
    }
}
