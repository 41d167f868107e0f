//! Rules of the whole graph: no cycle, and phases on the right side of the pivot.

use sagamesh_api::saga::v1::{Definition, Phase};

use super::Found;
use crate::saga::plan::{StepSet, after_sets, closure};

pub(super) fn check(definition: &Definition, found: &mut Found) {
    let after = after_sets(definition);
    let ancestors = closure(&after);
    if let Some(cycle) = cycle(&after, &ancestors) {
        let names: Vec<&str> = cycle
            .iter()
            .map(|at| definition.steps[*at].name.as_str())
            .collect();
        let path = format!("steps[{}].after", cycle[0]);
        found.add(
            path,
            format!(
                "the steps wait for each other in a cycle: {}",
                names.join(" -> ")
            ),
        );
        return;
    }
    pivots(definition, &ancestors, found);
}

/// A cycle by way of `after`, its first step repeated at the end.
fn cycle(after: &[StepSet], ancestors: &[StepSet]) -> Option<Vec<usize>> {
    let on_cycle = |at: usize| ancestors[at].0 & (1 << at) != 0;
    let start = (0..after.len()).find(|at| on_cycle(*at))?;
    let mut path = vec![start];
    let mut visited = StepSet::default();
    let mut at = start;
    // Only along steps that lead back to the start: each of them has the start among its ancestors.
    loop {
        visited.0 |= 1 << at;
        let leads_back = |next: &usize| {
            *next == start
                || (ancestors[*next].0 & (1 << start) != 0 && visited.0 & (1 << *next) == 0)
        };
        let earlier = || after[at].iter().map(usize::from);
        let next = if earlier().any(|next| next == start) {
            start
        } else {
            earlier().find(leads_back)?
        };
        path.push(next);
        if next == start {
            return Some(path);
        }
        at = next;
    }
}

fn pivots(definition: &Definition, ancestors: &[StepSet], found: &mut Found) {
    let steps = || definition.steps.iter().enumerate();
    let pivots: Vec<usize> = steps()
        .filter(|(_, step)| step.phase() == Phase::Pivot)
        .map(|(at, _)| at)
        .collect();
    for second in pivots.iter().skip(1) {
        let first = &definition.steps[pivots[0]].name;
        found.add(
            format!("steps[{second}].phase"),
            format!("step {first:?} is the pivot already: there is one point of no return at most"),
        );
    }
    let Some(&pivot) = pivots.first() else {
        for (at, _) in steps().filter(|(_, step)| step.phase() == Phase::Retriable) {
            found.add(
                format!("steps[{at}].phase"),
                "is RETRIABLE, but there is no PIVOT that it could come after",
            );
        }
        return;
    };
    if pivots.len() > 1 {
        return;
    }
    let name = &definition.steps[pivot].name;
    for (at, step) in steps() {
        let before = ancestors[pivot].0 & (1 << at) != 0;
        let behind = ancestors[at].0 & (1 << pivot) != 0;
        match step.phase() {
            phase @ (Phase::Compensatable | Phase::ReadOnly) if !before => {
                let phase = phase_name(phase);
                found.add(
                    format!("steps[{at}].phase"),
                    format!("is {phase}, so the pivot {name:?} must come after it"),
                );
            }
            Phase::Retriable if !behind => {
                found.add(
                    format!("steps[{at}].phase"),
                    format!("is RETRIABLE, so it must come after the pivot {name:?}"),
                );
            }
            _ => {}
        }
    }
}

/// A phase as it is written in definitions.
pub(super) fn phase_name(phase: Phase) -> &'static str {
    phase.as_str_name().trim_start_matches("PHASE_")
}
