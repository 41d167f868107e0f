//! Every saga ends COMPLETED, COMPENSATED or COMPENSATED_WITH_LEFTOVERS. Those that were parked or stalled were seen by the operators, who
//! resolved them once faults had ended: so at the end none is open.

use sagamesh_api::saga::v1::{SagaState, transition::Kind};

use super::facts::Facts;

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    for (id, saga) in &facts.sagas {
        let Some(state) = saga.ended else {
            violated(format!("{id} has not ended"));
            continue;
        };
        let aborted = saga
            .transitions()
            .any(|(_, kind)| matches!(kind, Kind::Aborted(_)));
        let leftovers = saga
            .transitions()
            .any(|(_, kind)| matches!(kind, Kind::Ended(ended) if !ended.leftovers.is_empty()));
        let fits = match state {
            SagaState::Completed => !aborted && !leftovers,
            SagaState::Compensated => aborted && !leftovers,
            SagaState::CompensatedWithLeftovers => aborted && leftovers,
            _ => false,
        };
        if !fits {
            violated(format!(
                "{id} ended as {state:?} (aborted: {aborted}, leftovers: {leftovers})"
            ));
        }
        let end = saga.records.iter().position(|record| {
            let mut kinds = record.event.transitions.iter();
            kinds.any(|transition| matches!(transition.kind, Some(Kind::Ended(_))))
        });
        let after = saga.records.len() - end.map_or(0, |end| end + 1);
        let late = saga.records.iter().rev().take(after);
        let late = late.flat_map(|record| &record.event.transitions);
        for transition in late {
            if !matches!(transition.kind, Some(Kind::Superseded(_))) {
                violated(format!("{id} has ended, and then: {transition:?}"));
            }
        }
    }
}
