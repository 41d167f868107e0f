//! Starting, and starting again.

use sagamesh_api::saga::v1::{Started, Transition, transition::Kind as T};

use super::{Draft, Refusal};
use crate::saga::request::Start;
use crate::saga::state::{Core, Run};
use crate::saga::time::timestamp;

/// Accepts a saga and releases its first steps.
pub(super) fn start(start: &Start, now: i64, seed: u64) -> Result<Vec<Transition>, Refusal> {
    let deadline = deadline_millis(start).map(|millis| now.saturating_add(millis));
    let started = Started {
        definition: start.plan.name().to_owned(),
        definition_hash: start.plan.hash().to_owned(),
        input: start.input.clone(),
        search_attributes: start.search_attributes.clone(),
        deadline_time: deadline.map(timestamp),
        traceparent: start.traceparent.clone(),
        parent_span_id: start.parent_span_id,
        shard: start.shard,
    };
    let mut draft = Draft {
        plan: &start.plan,
        core: Core::new(start.plan.steps().len(), now, deadline),
        now,
        random: seed,
        signals: Vec::new(),
        out: vec![Transition {
            kind: Some(T::Started(started)),
        }],
    };
    draft.advance()?;
    Ok(draft.out)
}

/// The same start again changes nothing; another one is refused.
pub(super) fn again(run: &Run, start: &Start) -> Result<Vec<Transition>, Refusal> {
    let same_version = run.plan.hash() == start.plan.hash();
    let different =
        if run.plan.name() != start.plan.name() || (start.version_chosen && !same_version) {
            Some("definition")
        } else if run.input != start.input {
            Some("input")
        } else if run.search_attributes != start.search_attributes {
            Some("set of search attributes")
        } else if !same_deadline(run, start, same_version) {
            Some("deadline")
        } else {
            None
        };
    match different {
        None => Ok(Vec::new()),
        Some(what) => Err(Refusal::IdReused(what)),
    }
}

fn deadline_millis(start: &Start) -> Option<i64> {
    start
        .deadline_millis
        .or_else(|| start.plan.deadline_millis())
}

fn same_deadline(run: &Run, start: &Start, same_version: bool) -> bool {
    let taken = run
        .core
        .deadline
        .map(|deadline| deadline.saturating_sub(run.core.start));
    // Without one of its own it took that of its version, which need not be today's.
    let asked = match (start.deadline_millis, same_version) {
        (Some(millis), _) => Some(millis),
        (None, true) => start.plan.deadline_millis(),
        (None, false) => run.plan.deadline_millis(),
    };
    taken == asked
}
