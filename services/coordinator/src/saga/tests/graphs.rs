//! Definitions for explorations: all small graphs, and random ones.

use std::sync::Arc;

use sagamesh_api::saga::v1::{Phase, Step};

use super::harness::*;
use crate::saga::Plan;

/// What a step of a generated definition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Call(Phase),
    Delay(Phase),
    Signal(Phase),
}

pub(super) const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A step named by its place. Signal steps share one signal's name.
pub(super) fn make(at: usize, sort: Sort, after: &[usize]) -> Step {
    let after: Vec<&str> = after.iter().map(|at| NAMES[*at]).collect();
    match sort {
        Sort::Call(phase) => call(NAMES[at], phase, &after),
        Sort::Delay(phase) => delay(NAMES[at], phase, &after, 700),
        Sort::Signal(phase) => signal(NAMES[at], phase, &after, "go", Some(900)),
    }
}

/// All valid definitions of `steps` steps, edges from earlier to later ones.
pub(super) fn all(steps: usize, sorts: &[Sort]) -> Vec<Arc<Plan>> {
    let pairs: Vec<(usize, usize)> = (0..steps)
        .flat_map(|to| (0..to).map(move |from| (from, to)))
        .collect();
    let mut plans = Vec::new();
    for edges in 0..1usize << pairs.len() {
        for mut code in 0..sorts.len().pow(u32::try_from(steps).expect("few")) {
            let mut made = Vec::new();
            for at in 0..steps {
                let chosen = |(place, (_, to)): &(usize, &(usize, usize))| {
                    *to == at && edges & (1 << place) != 0
                };
                let after: Vec<usize> = pairs
                    .iter()
                    .enumerate()
                    .filter(chosen)
                    .map(|(_, (from, _))| *from)
                    .collect();
                made.push(make(at, sorts[code % sorts.len()], &after));
                code /= sorts.len();
            }
            if let Ok(plan) = Plan::compile(&definition(made)) {
                plans.push(Arc::new(plan));
            }
        }
    }
    plans
}
