//! Alarms about what is not there: active definitions without a connected handler, open breakers. And the levels of replicas that commit nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::warnings;
use crate::engine::Engine;
use crate::meters::Levels;

/// Checks until it is told to stop; says what is new once.
pub(crate) async fn run(engine: Engine) {
    let token = engine.tasks.token();
    let without_handler = metrics::gauge!("saga_definition_steps_without_handler");
    let open_breakers = metrics::gauge!("saga_breakers_open");
    let levels = Levels::default();
    let mut known = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(engine.options.alarm_interval) => {}
            () = token.cancelled() => return,
        }
        let mut found = BTreeSet::new();
        let mut steps = 0;
        for (name, record) in engine.registry.all() {
            let active = record.active.as_deref().and_then(|hash| record.find(hash));
            for warning in active
                .map(|version| warnings(&engine, &Arc::clone(&version.plan)))
                .unwrap_or_default()
            {
                steps += 1;
                found.insert(format!("definition {name} is active, but {warning}"));
            }
        }
        let breakers = engine.dispatch.look(|hub, _| {
            levels.set(hub);
            hub.open_breakers()
        });
        open_breakers.set(breakers.len() as f64);
        found.extend(breakers.iter().map(|(participant, action)| {
            format!("the circuit breaker of {participant} for {action} is open")
        }));
        without_handler.set(f64::from(steps));
        for alarm in found.difference(&known) {
            tracing::warn!("{alarm}");
        }
        for alarm in known.difference(&found) {
            tracing::info!("over: {alarm}");
        }
        known = found;
    }
}
