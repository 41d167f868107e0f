//! WatchSaga: a saga's history from a version on, without gaps or repetitions.

use std::time::Duration;

use chassis::{Problem, Violations};
use ledger::StreamId;
use sagamesh_api::saga::v1::{SagaEvent, WatchSagaRequest, WatchSagaResponse, transition::Kind};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::check;
use crate::decider::{Event, State, saga_stream};
use crate::engine::Engine;
use crate::problems::{ERRORS, read_failed, refused};
use crate::saga::Refusal;

/// A heartbeat comes after this long without an event.
const HEARTBEAT: Duration = Duration::from_secs(9);

/// The stream of events.
pub(super) type Watching = ReceiverStream<Result<WatchSagaResponse, Status>>;

/// Follows a saga.
pub(super) async fn watch(engine: &Engine, request: WatchSagaRequest) -> Result<Watching, Problem> {
    let mut found = Violations::new();
    check::saga_id(&mut found, "saga_id", &request.saga_id);
    found.into_result(ERRORS)?;
    let stream = saga_stream(&request.saga_id);
    // Followed first and read second: what is committed in between is seen by both, and told apart by its version.
    let newest = engine.dispatch.quietly(|hub, _| hub.watch(&stream));
    let follower = Follower {
        engine: engine.clone(),
        stream,
        newest,
        seen: request.after_version,
    };
    let (sender, receiver) = mpsc::channel(16);
    let history = follower.read(request.after_version).await?;
    if history.is_empty() && follower.is_over(request.after_version).await? {
        return Ok(ReceiverStream::new(receiver));
    }
    engine
        .tasks
        .spawn("watch-saga", follower.run(history, sender));
    Ok(ReceiverStream::new(receiver))
}

struct Follower {
    engine: Engine,
    stream: StreamId,
    newest: watch::Receiver<u64>,
    seen: u64,
}

impl Follower {
    async fn run(
        mut self,
        history: Vec<SagaEvent>,
        sender: mpsc::Sender<Result<WatchSagaResponse, Status>>,
    ) {
        let outcome = self.follow(history, &sender).await;
        if let Err(problem) = outcome {
            // A client that went away needs no error.
            drop(sender.send(Err(problem.into())).await);
        }
    }

    async fn follow(
        &mut self,
        mut events: Vec<SagaEvent>,
        sender: &mpsc::Sender<Result<WatchSagaResponse, Status>>,
    ) -> Result<(), Problem> {
        let draining = self.engine.tasks.draining();
        loop {
            for event in events.drain(..) {
                let ended = has_ended(&event);
                if event.version > self.seen {
                    self.seen = event.version;
                    if sender
                        .send(Ok(WatchSagaResponse { event: Some(event) }))
                        .await
                        .is_err()
                    {
                        return Ok(());
                    }
                }
                if ended {
                    return Ok(());
                }
            }
            let seen = self.seen;
            tokio::select! {
                biased;
                followed = newer(&mut self.newest, seen) => {
                    if !followed {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(HEARTBEAT) => {
                    if sender.send(Ok(WatchSagaResponse { event: None })).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                () = draining.cancelled() => {
                    let message = "the coordinator is shutting down: watch again after the last version you saw";
                    return Err(ERRORS.problem(Code::Unavailable, "SHUTTING_DOWN", message).retry_after(Duration::from_millis(500)));
                }
                () = sender.closed() => return Ok(()),
            }
            events = self.read(self.seen).await?;
        }
    }

    /// Nothing is recorded after `after`: whether nothing can follow either. Refuses what is not a version of the saga.
    async fn is_over(&self, after: u64) -> Result<bool, Problem> {
        let (state, last) = self
            .engine
            .ledger
            .load(&self.stream)
            .await
            .map_err(|error| read_failed(&error))?;
        if last == 0 {
            return Err(refused(&Refusal::NotStarted));
        }
        if after > last {
            let message = format!(
                "after_version is {after}, but the newest event is {last}: watch from there, or from 0 for all"
            );
            return Err(ERRORS.problem(Code::OutOfRange, "VERSION_OUT_OF_RANGE", message));
        }
        // What was recorded since comes with the next read.
        Ok(after == last && matches!(state, State::Saga(state) if state.has_ended()))
    }

    async fn read(&self, after: u64) -> Result<Vec<SagaEvent>, Problem> {
        let events = self
            .engine
            .ledger
            .read_stream(&self.stream, after)
            .await
            .map_err(|error| read_failed(&error))?;
        let events = events
            .into_iter()
            .filter_map(|(version, event)| match event {
                Event::Saga(event) => Some(SagaEvent { version, ..event }),
                _ => None,
            });
        Ok(events.collect())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Only then is the last receiver gone.
        let (_, gone) = watch::channel(0);
        self.newest = gone;
        self.engine
            .dispatch
            .quietly(|hub, _| hub.forget_watchers(&self.stream));
    }
}

/// Waits for a version above `seen`; false if none can come any more.
async fn newer(newest: &mut watch::Receiver<u64>, seen: u64) -> bool {
    newest.wait_for(|newest| *newest > seen).await.is_ok()
}

fn has_ended(event: &SagaEvent) -> bool {
    event
        .transitions
        .iter()
        .any(|transition| matches!(transition.kind, Some(Kind::Ended(_))))
}
