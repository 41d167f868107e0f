//! Every crash point: small sagas whose every outcome is written down beforehand, run again and again with a stop at another point each time.

mod cases;

use std::collections::BTreeMap;
use std::time::Duration;

use participant::{Direction, Outcome};
use sagamesh_api::saga::v1::{Definition, Phase, SagaState};

pub use cases::{Case, cases};

use crate::history::Told;
use crate::moods::Mood;
use crate::setup::{Faults, Setup};

/// The one participant of these sagas.
pub(crate) const PARTICIPANT: &str = "alpha";

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

impl Points {
    /// Adds what came of other cases.
    pub fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.reached += other.reached;
        self.missed += other.missed;
        self.wrong.extend(other.wrong);
    }
}

/// Stops each machine at each point that it reaches in a case, one after the other. What machines do before the saga is started (they connect, and the
/// definition is registered) is the same in all cases: they are stopped there in those that are `whole`.
#[cfg(feature = "clock")]
pub fn every_point(case: &Case, seen: &mut Points) {
    use crate::history::What;
    use crate::setup::Stop;

    const SEED: u64 = 1;
    seen.cases += 1;
    let script = &case.script;
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
        (report.points, report.before)
    };
    let setup = script.clone().setup();
    let (all, before) = judge(&setup, false);
    for (machine, points) in all {
        let before = before.get(&machine).copied().filter(|_| !case.whole);
        for at in before.unwrap_or(0) + 1..=points {
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
