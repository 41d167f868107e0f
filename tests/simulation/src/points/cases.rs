//! Small sagas: every graph, every place of the pivot, every outcome of every step; those that differ in names alone count once.

use std::collections::BTreeSet;
use std::time::Duration;

use chassis::timestamp::from_duration;
use sagamesh_api::saga::v1::{Call, Definition, Phase, RetryPolicy, Step, step::Kind};

use super::{PARTICIPANT, Says, Script};

/// A saga to stop machines in.
#[derive(Clone, Debug)]
pub struct Case {
    /// The saga.
    pub script: Script,
    /// Machines are also stopped before the saga is started.
    pub whole: bool,
}

/// A graph whose edges go from lower numbers to higher ones, with a pivot or without.
struct Graph {
    steps: usize,
    edges: Vec<(usize, usize)>,
    /// What leads to what, directly or not; each step to itself as well.
    leads: Vec<Vec<bool>>,
    pivot: Option<usize>,
}

/// A graph with an outcome for each step, whatever the steps are called: what each step is and says, and the edges.
type Shape = (Vec<(i32, Says)>, Vec<(usize, usize)>);

/// Every saga of so many steps, and how many there are if those that come to the same are not counted once: a step that never runs, since one before
/// it ends the saga, may say anything; and it does not matter in which order steps are numbered.
pub fn cases(steps: usize) -> (Vec<Case>, usize) {
    let pairs: Vec<(usize, usize)> = (0..steps)
        .flat_map(|to| (0..to).map(move |from| (from, to)))
        .collect();
    let orders = orders(steps);
    let (mut cases, mut seen, mut all) = (Vec::new(), BTreeSet::new(), 0);
    for chosen in 0..1_u32 << pairs.len() {
        let edges = pairs.iter().enumerate();
        let edges: Vec<(usize, usize)> = edges
            .filter(|(at, _)| chosen >> at & 1 == 1)
            .map(|(_, pair)| *pair)
            .collect();
        for pivot in std::iter::once(None).chain((0..steps).map(Some)) {
            let graph = Graph::new(steps, edges.clone(), pivot);
            if !graph.is_divided() {
                continue;
            }
            let definition = graph.definition();
            for says in outcomes(steps) {
                all += 1;
                if graph.is_plain(&says) && seen.insert(graph.shape(&says, &orders)) {
                    let names = definition.steps.iter().map(|step| step.name.clone());
                    let script = Script {
                        says: names.zip(says).collect(),
                        definition: definition.clone(),
                    };
                    let whole = cases.is_empty();
                    cases.push(Case { script, whole });
                }
            }
        }
    }
    (cases, all)
}

impl Graph {
    fn new(steps: usize, edges: Vec<(usize, usize)>, pivot: Option<usize>) -> Self {
        let mut leads = vec![vec![false; steps]; steps];
        for (start, reached) in leads.iter_mut().enumerate() {
            reached[start] = true;
            // Edges are sorted by where they lead.
            for (from, to) in &edges {
                reached[*to] |= reached[*from];
            }
        }
        Self {
            steps,
            edges,
            leads,
            pivot,
        }
    }

    /// What comes before the pivot must lead to it, and what comes after must follow from it.
    fn is_divided(&self) -> bool {
        self.pivot
            .is_none_or(|pivot| (0..self.steps).all(|at| self.leads[at.min(pivot)][at.max(pivot)]))
    }

    fn phase(&self, at: usize) -> Phase {
        match self.pivot {
            Some(pivot) if at == pivot => Phase::Pivot,
            Some(pivot) if at > pivot => Phase::Retriable,
            _ => Phase::Compensatable,
        }
    }

    fn name(&self, at: usize) -> String {
        match self.phase(at) {
            Phase::Pivot => "pivot".to_owned(),
            Phase::Retriable => format!("r{at}"),
            _ => format!("b{at}"),
        }
    }

    fn definition(&self) -> Definition {
        let steps = (0..self.steps).map(|at| {
            let phase = self.phase(at);
            let after = self.edges.iter().filter(|(_, to)| *to == at);
            Step {
                name: self.name(at),
                phase: phase.into(),
                after: after.map(|(from, _)| self.name(*from)).collect(),
                kind: Some(Kind::Call(call(phase))),
            }
        });
        Definition {
            name: "points".to_owned(),
            steps: steps.collect(),
            ..Definition::default()
        }
    }

    /// Whether nothing follows a step once it has said this.
    fn ends(&self, at: usize, says: Says) -> bool {
        match self.phase(at) {
            Phase::Retriable => false,
            Phase::Pivot => says == Says::No,
            _ => says != Says::Yes,
        }
    }

    /// Whether steps that never run say yes, as the one case for all that they might say.
    fn is_plain(&self, says: &[Says]) -> bool {
        let runs = |at: usize| {
            let mut before = (0..at).filter(|before| self.leads[*before][at]);
            !before.any(|before| self.ends(before, says[before]))
        };
        (0..self.steps).all(|at| says[at] == Says::Yes || runs(at))
    }

    /// The same for all graphs that differ in the order of their steps alone.
    fn shape(&self, says: &[Says], orders: &[Vec<usize>]) -> Option<Shape> {
        let shapes = orders.iter().map(|order| {
            let mut steps = vec![(0, Says::Yes); self.steps];
            for (at, place) in order.iter().enumerate() {
                steps[*place] = (self.phase(at).into(), says[at]);
            }
            let edges = self.edges.iter();
            let mut edges: Vec<_> = edges.map(|(from, to)| (order[*from], order[*to])).collect();
            edges.sort_unstable();
            (steps, edges)
        });
        shapes.min()
    }
}

/// Every order of so many steps.
fn orders(steps: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for at in 0..steps {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=at).map(move |place| {
                    let mut order = order.clone();
                    order.insert(place, at);
                    order
                })
            })
            .collect();
    }
    orders
}

/// Everything that so many steps may say.
fn outcomes(steps: usize) -> Vec<Vec<Says>> {
    let mut all = vec![Vec::new()];
    for _ in 0..steps {
        all = all
            .into_iter()
            .flat_map(|says: Vec<Says>| {
                [Says::Yes, Says::No, Says::Forgets].map(|one| [&*says, &[one]].concat())
            })
            .collect();
    }
    all
}

fn call(phase: Phase) -> Call {
    let undoable = phase == Phase::Compensatable;
    let seconds = |seconds| Some(from_duration(Duration::from_secs(seconds)));
    Call {
        participant: PARTICIPANT.to_owned(),
        action: "do".to_owned(),
        compensation: if undoable { "undo" } else { "" }.to_owned(),
        timeout: seconds(2),
        retry: Some(RetryPolicy {
            max_attempts: 4,
            max_backoff: seconds(2),
            ..RetryPolicy::default()
        }),
        stalled_after: (!undoable).then(|| seconds(20)).flatten(),
        ..Call::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_to_the_same_counts_once() {
        let counts = (1..=4).map(|steps| {
            let (cases, all) = cases(steps);
            (cases.len(), all)
        });
        let counts: Vec<_> = counts.collect();
        assert_eq!(counts, [(6, 6), (23, 36), (146, 432), (1_723, 10_530)]);
    }
}
