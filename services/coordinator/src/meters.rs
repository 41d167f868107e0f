//! Metrics of sagas, and the log lines of alarms.

use std::collections::HashMap;

use ledger::StreamId;
use metrics::{Counter, Gauge};
use sagamesh_api::saga::v1::{SagaEvent, SagaState as Ending, transition::Kind};

use crate::hub::Hub;
use crate::saga::SagaState;

/// Metric handles, resolved once per definition.
pub struct Meters {
    by_definition: HashMap<String, Definition>,
    levels: Levels,
    superseded: Counter,
}

/// What is open now.
pub(crate) struct Levels {
    open: Gauge,
    active: Gauge,
    bytes: Gauge,
    unreadable: Gauge,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            open: metrics::gauge!("saga_open"),
            active: metrics::gauge!("saga_active"),
            bytes: metrics::gauge!("saga_active_bytes"),
            unreadable: metrics::gauge!("saga_unreadable"),
        }
    }
}

impl Levels {
    /// Sets the gauges.
    pub(crate) fn set(&self, hub: &Hub) {
        self.open.set(hub.open_sagas() as f64);
        let active = hub.active();
        self.active.set(active.sagas as f64);
        self.bytes.set(active.bytes as f64);
        self.unreadable.set(hub.unreadable() as f64);
    }
}

struct Definition {
    started: Counter,
    completed: Counter,
    compensated: Counter,
    leftovers: Counter,
    aborted: Counter,
    parked: Counter,
    stalled: Counter,
    missed: Counter,
}

impl Definition {
    fn new(name: &str) -> Self {
        let ended = |state: &'static str| metrics::counter!("saga_ended_total", "definition" => name.to_owned(), "state" => state);
        let alarm = |alarm: &'static str| metrics::counter!("saga_alarms_total", "definition" => name.to_owned(), "alarm" => alarm);
        Self {
            started: metrics::counter!("saga_started_total", "definition" => name.to_owned()),
            completed: ended("COMPLETED"),
            compensated: ended("COMPENSATED"),
            leftovers: ended("COMPENSATED_WITH_LEFTOVERS"),
            aborted: metrics::counter!("saga_aborted_total", "definition" => name.to_owned()),
            parked: alarm("parked"),
            stalled: alarm("stalled"),
            missed: alarm("deadline_missed"),
        }
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            by_definition: HashMap::new(),
            levels: Levels::default(),
            superseded: metrics::counter!("saga_results_superseded_total"),
        }
    }
}

impl Meters {
    /// Counts a committed event, and writes a line for each alarm.
    pub fn committed(&mut self, stream: &StreamId, event: &SagaEvent, state: &SagaState) {
        let name = state.plan().map_or("", |plan| plan.name());
        if !self.by_definition.contains_key(name) {
            self.by_definition
                .insert(name.to_owned(), Definition::new(name));
        }
        let Some(definition) = self.by_definition.get(name) else {
            return;
        };
        let saga = stream.key();
        for transition in &event.transitions {
            match &transition.kind {
                Some(Kind::Started(_)) => definition.started.increment(1),
                Some(Kind::Aborted(_)) => definition.aborted.increment(1),
                Some(Kind::Superseded(_)) => self.superseded.increment(1),
                Some(Kind::Parked(parked)) => {
                    definition.parked.increment(1);
                    tracing::warn!(saga, definition = name, step = %parked.step, reason = parked.reason().as_str_name(), "a saga waits for an operator: retry, skip or resolve the step");
                }
                Some(Kind::Stalled(stalled)) => {
                    definition.stalled.increment(1);
                    tracing::warn!(saga, definition = name, step = %stalled.step, "a step after the pivot takes longer than stalled_after; it is still retried");
                }
                Some(Kind::DeadlineMissed(_)) => {
                    definition.missed.increment(1);
                    tracing::warn!(
                        saga,
                        definition = name,
                        "a saga missed its deadline after the point of no return; it goes on"
                    );
                }
                Some(Kind::Ended(ended)) => match ended.state() {
                    Ending::Completed => definition.completed.increment(1),
                    Ending::Compensated => definition.compensated.increment(1),
                    _ => definition.leftovers.increment(1),
                },
                _ => {}
            }
        }
    }

    /// Sets the gauges of what is open.
    pub(crate) fn levels(&self, hub: &Hub) {
        self.levels.set(hub);
    }
}
