//! A saga as a span: from its start to its end, whichever replica was there for either. Its steps are its children.

use chassis::trace::{Announced, KeyValue, exporting};
use sagamesh_api::saga::v1 as pb;

use crate::saga::SagaState;

/// A saga has ended, durably, and ran here.
pub(crate) fn ended(saga_id: &str, state: &SagaState) {
    if !exporting() || state.parent_span_id() == 0 {
        return;
    }
    let (Some(plan), Some(start), Some(end)) =
        (state.plan(), state.start_millis(), state.end_millis())
    else {
        return;
    };
    let end_state = match state.saga_state() {
        pb::SagaState::Completed => "COMPLETED",
        pb::SagaState::Compensated => "COMPENSATED",
        _ => "COMPENSATED_WITH_LEFTOVERS",
    };
    let span = Announced {
        name: format!("saga {}", plan.name()),
        traceparent: state.traceparent(),
        parent_span_id: state.parent_span_id(),
        start_millis: start,
        end_millis: end,
        // What was asked for did not come about.
        error_type: (end_state != "COMPLETED").then_some(end_state),
        attributes: vec![
            KeyValue::new("saga.id", saga_id.to_owned()),
            KeyValue::new("saga.definition", plan.name().to_owned()),
            KeyValue::new("saga.state", end_state),
        ],
    };
    span.export();
}
