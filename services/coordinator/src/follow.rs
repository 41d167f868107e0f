//! What other replicas write: their definitions and participants come into memory here too, and whoever watches their sagas is told.

use std::time::Duration;

use ledger::{Recorded, StreamId, Subscription};

use crate::decider::{DEFINITION, PARTICIPANT, SAGA, State};
use crate::engine::Engine;

/// Events that are looked at together.
const TOGETHER: usize = 512;
/// Before a failed read is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Follows the log until it is told to stop.
pub(crate) async fn run(engine: Engine, mut log: Subscription) {
    let token = engine.tasks.token();
    // Read and not yet seen: what was read is not read again.
    let mut events = Vec::new();
    loop {
        let next = async {
            if events.is_empty() {
                events = log.next(TOGETHER).await?;
            }
            see(&engine, &events).await?;
            events.clear();
            Ok::<_, ledger::Error>(())
        };
        let seen = tokio::select! {
            biased;
            () = token.cancelled() => return,
            seen = next => seen,
        };
        if let Err(error) = seen {
            tracing::warn!(%error, "the log could not be followed; it is tried again");
            tokio::select! {
                biased;
                () = tokio::time::sleep(PAUSE) => {}
                () = token.cancelled() => return,
            }
        }
    }
}

async fn see(engine: &Engine, events: &[Recorded]) -> Result<(), ledger::Error> {
    if engine.dispatch.look(|hub, _| hub.has_watchers()) {
        engine.dispatch.quietly(|hub, _| {
            let sagas = events.iter().filter(|event| event.stream.kind() == SAGA);
            sagas.for_each(|event| hub.recorded(&event.stream, event.version));
        });
    }
    for event in events {
        if matches!(event.stream.kind(), DEFINITION | PARTICIPANT) {
            match refresh(engine, &event.stream).await {
                Ok(()) => {}
                Err(error) => engine.left_alone(&event.stream, error)?,
            }
        }
    }
    Ok(())
}

/// Reads one definition or participant as it is on record now.
pub(crate) async fn refresh(engine: &Engine, stream: &StreamId) -> Result<(), ledger::Error> {
    match engine.ledger.load(stream).await? {
        (_, 0) => {}
        (State::Definition(record), version) => {
            engine.registry.publish(stream.key(), record, version)
        }
        (State::Participant(record), _) => {
            let dispatch = &engine.dispatch;
            dispatch.with(|hub, _| hub.set_participant(stream.key(), record.settings));
        }
        (State::Saga(_), _) => {}
    }
    Ok(())
}
