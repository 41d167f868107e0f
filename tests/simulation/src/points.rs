//! Every crash point: small sagas whose every outcome is written down beforehand, run again and again with a stop at another point each time.

use std::collections::BTreeMap;
use std::time::Duration;

use chassis::timestamp::from_duration;
use participant::{Direction, Outcome};
use sagamesh_api::saga::v1::{Call, Definition, Phase, RetryPolicy, SagaState, Step, step::Kind};

use crate::history::Told;
use crate::moods::Mood;
use crate::setup::{Faults, Setup};

/// The one participant of these sagas.
const PARTICIPANT: &str = "alpha";

/// What the handler of a step says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Says {
    /// Success.
    Yes,
    /// A rejection.
    No,
    /// It does it, and does not know.
    Forgets,
}

/// A definition, and what its steps say when their actions come.
#[derive(Clone, Debug)]
pub struct Script {
    /// What runs.
    pub definition: Definition,
    /// What steps say; those that are not named succeed.
    pub says: BTreeMap<String, Says>,
}

impl Script {
    /// The mood for a command.
    pub fn mood(&self, told: &Told, good: Mood) -> Mood {
        let says = self.says.get(&told.step).copied().unwrap_or(Says::Yes);
        match says {
            Says::No if told.direction == Direction::Action => Mood {
                says: Outcome::rejected("NO", "the script says no"),
                ..good
            },
            Says::Forgets if told.direction == Direction::Action => Mood {
                forgets: true,
                ..good
            },
            _ => good,
        }
    }

    /// How the saga must end, wherever a machine was stopped.
    pub fn promised(&self) -> SagaState {
        let undone = self.definition.steps.iter().any(|step| {
            let says = self.says.get(&step.name).copied().unwrap_or(Says::Yes);
            match step.phase() {
                Phase::Retriable => false,
                Phase::Pivot => says == Says::No,
                _ => says != Says::Yes,
            }
        });
        match undone {
            true => SagaState::Compensated,
            false => SagaState::Completed,
        }
    }

    /// The simulation of it: one saga, and no faults but the stop.
    pub fn setup(self) -> Setup {
        Setup {
            replicas: 1,
            participants: vec![PARTICIPANT.to_owned()],
            sagas: 1,
            orders: 0,
            chaos: Duration::from_secs(1),
            faults: Faults::NONE,
            bug: None,
            stop: None,
            script: Some(self),
        }
    }
}

/// Every graph of so many steps, with and without a pivot at every place, and for each every outcome of every step.
pub fn cases(steps: usize) -> Vec<Script> {
    let pairs: Vec<(usize, usize)> = (0..steps)
        .flat_map(|to| (0..to).map(move |from| (from, to)))
        .collect();
    let mut cases = Vec::new();
    for edges in 0..1_u32 << pairs.len() {
        let chosen: Vec<(usize, usize)> = pairs
            .iter()
            .enumerate()
            .filter(|(at, _)| edges >> at & 1 == 1)
            .map(|(_, pair)| *pair)
            .collect();
        for pivot in std::iter::once(None).chain((0..steps).map(Some)) {
            if let Some(definition) = definition(steps, &chosen, pivot) {
                cases.extend(outcomes(&definition));
            }
        }
    }
    cases
}

/// A definition; none if the pivot does not divide its graph.
fn definition(steps: usize, edges: &[(usize, usize)], pivot: Option<usize>) -> Option<Definition> {
    // What comes before the pivot must lead to it, and what comes after must follow from it.
    let leads = |from: usize, to: usize| {
        let mut reached = vec![false; steps];
        reached[from] = true;
        for (one, other) in edges {
            let before = reached[*one];
            reached[*other] |= before;
        }
        reached[to]
    };
    if let Some(pivot) = pivot
        && !(0..steps).all(|step| leads(step.min(pivot), step.max(pivot)))
    {
        return None;
    }
    let steps = (0..steps).map(|at| {
        let phase = match pivot {
            Some(pivot) if at == pivot => Phase::Pivot,
            Some(pivot) if at > pivot => Phase::Retriable,
            _ => Phase::Compensatable,
        };
        let after = edges.iter().filter(|(_, to)| *to == at);
        Step {
            name: name(at, phase),
            phase: phase.into(),
            after: after
                .map(|(from, _)| match pivot {
                    Some(pivot) if *from == pivot => "pivot".to_owned(),
                    Some(pivot) if *from > pivot => format!("r{from}"),
                    _ => format!("b{from}"),
                })
                .collect(),
            kind: Some(Kind::Call(call(phase))),
        }
    });
    Some(Definition {
        name: "points".to_owned(),
        steps: steps.collect(),
        ..Definition::default()
    })
}

fn name(at: usize, phase: Phase) -> String {
    match phase {
        Phase::Pivot => "pivot".to_owned(),
        Phase::Retriable => format!("r{at}"),
        _ => format!("b{at}"),
    }
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

fn outcomes(definition: &Definition) -> Vec<Script> {
    let mut scripts = vec![BTreeMap::new()];
    for step in &definition.steps {
        scripts = scripts
            .into_iter()
            .flat_map(|says: BTreeMap<String, Says>| {
                [Says::Yes, Says::No, Says::Forgets].map(|one| {
                    let mut says = says.clone();
                    says.insert(step.name.clone(), one);
                    says
                })
            })
            .collect();
    }
    scripts
        .into_iter()
        .map(|says| Script {
            definition: definition.clone(),
            says,
        })
        .collect()
}

/// What came of stops at every point of some cases.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Cases that were run.
    pub cases: u64,
    /// Points at which a machine was stopped.
    pub reached: u64,
    /// Points at which it was not, although it had come there without the stop.
    pub missed: u64,
    /// What went wrong.
    pub wrong: Vec<String>,
}

/// Stops each machine at each point that it reaches in a case, one after the other.
#[cfg(feature = "clock")]
pub fn every_point(script: &Script, seen: &mut Points) {
    use crate::history::What;
    use crate::setup::Stop;

    const SEED: u64 = 1;
    seen.cases += 1;
    let promised = script.promised();
    let mut judge = |setup: &Setup, expect_stop: bool| {
        let report = crate::run(SEED, setup);
        let stopped = report.history.iter().any(
            |entry| matches!(&entry.what, What::Fault(what) if what.ends_with("stops at a point")),
        );
        if expect_stop {
            seen.reached += u64::from(stopped);
            seen.missed += u64::from(!stopped);
        }
        let at = format!("{:?} with {:?}", setup.stop, script.says);
        for violation in &report.violations {
            seen.wrong.push(format!("{at}: {violation}"));
        }
        let ended = report.endings.first().copied();
        if ended != Some(promised) {
            seen.wrong
                .push(format!("{at}: it ended as {ended:?}, not as {promised:?}"));
        }
        report.points
    };
    let setup = script.clone().setup();
    for (machine, points) in judge(&setup, false) {
        for at in 1..=points {
            let stop = Some(Stop {
                machine: machine.clone(),
                at,
            });
            judge(
                &Setup {
                    stop,
                    ..setup.clone()
                },
                true,
            );
        }
    }
}
