//! Behind the barrier each action and each compensation takes effect at most once, and a saga that was undone leaves no effect, whatever comes
//! late. A saga that completed has had each of its effects.

use sagamesh_api::saga::v1::{Direction, Phase, SagaState, transition::Kind};

use super::facts::{Facts, Saga};

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    for ((saga, step), effects) in &facts.effects {
        let count = |direction| effects.iter().filter(|(_, of)| *of == direction).count();
        let (done, undone) = (count(Direction::Action), count(Direction::Compensation));
        if done > 1 || undone > 1 {
            violated(format!(
                "{saga}/{step} was done {done} times and undone {undone} times"
            ));
        }
        if effects
            .first()
            .is_some_and(|(_, of)| *of == Direction::Compensation)
        {
            violated(format!("{saga}/{step} was undone before it was done"));
        }
    }
    for (id, saga) in &facts.sagas {
        match saga.ended {
            Some(SagaState::Completed) => completed(facts, id, saga, violated),
            Some(SagaState::Compensated | SagaState::CompensatedWithLeftovers) => {
                undone(facts, id, saga, violated);
            }
            _ => {}
        }
    }
}

fn completed(facts: &Facts<'_>, id: &str, saga: &Saga, violated: &mut dyn FnMut(String)) {
    for step in saga
        .definition
        .steps
        .iter()
        .filter(|step| facts.is_seen(step))
    {
        let effects = facts.effects_of(id, &step.name);
        if saga.ruled_on(&step.name) {
            continue;
        }
        if effects.len() != 1 {
            violated(format!(
                "{id} completed, and {} has {} effects",
                step.name,
                effects.len()
            ));
        }
    }
}

fn undone(facts: &Facts<'_>, id: &str, saga: &Saga, violated: &mut dyn FnMut(String)) {
    let leftovers: Vec<&String> = saga
        .transitions()
        .filter_map(|(_, kind)| match kind {
            Kind::Ended(ended) => Some(&ended.leftovers),
            _ => None,
        })
        .flatten()
        .collect();
    for step in &saga.definition.steps {
        // A step that changes nothing needs no undoing.
        if step.phase() == Phase::ReadOnly || leftovers.contains(&&step.name) {
            continue;
        }
        let last = facts.effects_of(id, &step.name).last();
        if last.is_some_and(|(_, direction)| *direction == Direction::Action) {
            violated(format!("{id} was undone, and {} is still done", step.name));
        }
    }
}
