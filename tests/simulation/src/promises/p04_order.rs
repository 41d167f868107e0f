//! No step is undone before those that depend on it: neither on the coordinator's record nor in the participants' databases.

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::{Direction, OperatorAction, Phase, transition::Kind};

use super::facts::{Facts, Saga};

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    for (id, saga) in &facts.sagas {
        recorded(id, saga, violated);
        happened(facts, id, saga, violated);
    }
}

/// What the record says of a step.
#[derive(Clone, Copy, Default)]
struct Account {
    attempts: u32,
    surely_not: u32,
    undone: bool,
}

fn recorded(id: &str, saga: &Saga, violated: &mut dyn FnMut(String)) {
    let mut accounts: BTreeMap<&str, Account> = BTreeMap::new();
    for (_, kind) in saga.transitions() {
        match kind {
            Kind::Dispatched(sent) if sent.direction() == Direction::Action => {
                accounts.entry(&sent.step).or_default().attempts += 1;
            }
            Kind::Dispatched(sent) => {
                for step in saga.dependants(&sent.step) {
                    let account = accounts.get(&*step.name).copied().unwrap_or_default();
                    let happened = account.attempts > account.surely_not;
                    if step.phase() == Phase::Compensatable && happened && !account.undone {
                        violated(format!(
                            "{id}/{} is undone before {}, which comes after it",
                            sent.step, step.name
                        ));
                    }
                }
            }
            Kind::Rejected(no) if no.direction() == Direction::Action => {
                accounts.entry(&no.step).or_default().surely_not += 1;
            }
            Kind::Failed(no) if no.direction() == Direction::Action => {
                accounts.entry(&no.step).or_default().surely_not += 1;
            }
            Kind::Succeeded(done) if done.direction() == Direction::Compensation => {
                accounts.entry(&done.step).or_default().undone = true;
            }
            Kind::OperatorActed(acted)
                if acted.direction() == Direction::Compensation
                    && acted.action() != OperatorAction::Retry =>
            {
                accounts.entry(&acted.step).or_default().undone = true;
            }
            _ => {}
        }
    }
}

fn happened(facts: &Facts<'_>, id: &str, saga: &Saga, violated: &mut dyn FnMut(String)) {
    let moment = |step: &str, direction: Direction| {
        let mut effects = facts.effects_of(id, step).iter();
        effects.find(|(_, of)| *of == direction).map(|(at, _)| *at)
    };
    for step in &saga.definition.steps {
        let Some(undone) = moment(&step.name, Direction::Compensation) else {
            continue;
        };
        for later in saga.dependants(&step.name) {
            if later.phase() != Phase::Compensatable || saga.ruled_on(&later.name) {
                continue;
            }
            let done = moment(&later.name, Direction::Action).is_some_and(|done| done < undone);
            let in_time =
                moment(&later.name, Direction::Compensation).is_some_and(|at| at < undone);
            if done && !in_time {
                violated(format!(
                    "{id}/{} was undone while {}, which comes after it, was done",
                    step.name, later.name
                ));
            }
        }
    }
}
