//! Waiting for a saga's end, wherever it runs.

use std::time::Duration;

use chassis::Problem;
use ledger::StreamId;
use sagamesh_api::saga::v1::{self as pb, StartSagaRequest};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::starts;
use crate::engine::Engine;
use crate::forward::Hops;

/// While the saga changes hands.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Before the caller's own deadline.
const ANSWER_BEFORE: Duration = Duration::from_millis(250);

/// The saga once it has ended, or as it is when the time is over. It was either started here just now, or by `whole` before, perhaps on another replica.
pub(super) async fn end(
    engine: &Engine,
    waiter: Waiter,
    (started, whole): (bool, Option<StartSagaRequest>),
    hops: Hops,
) -> Result<pb::Saga, Problem> {
    let (stream, until) = (waiter.stream.clone(), waiter.until);
    let (mut waiter, mut here) = (Some(waiter), started);
    while Instant::now() < until {
        // First one waits, then one looks: no end falls in between.
        let waiting = waiter
            .take()
            .unwrap_or_else(|| Waiter::until(engine, &stream, until));
        let elsewhere = match here {
            true => None,
            false => engine.elsewhere(&stream).await?,
        };
        match (elsewhere, &whole) {
            (Some(shard), Some(whole)) => {
                if let Some(saga) = ask(engine, shard, whole, until, hops).await {
                    return Ok(saga);
                }
            }
            (Some(_), None) => {}
            (None, _) => {
                if !here {
                    let saga = engine.read(&stream).await?;
                    if saga.end_time.is_some() {
                        return Ok(saga);
                    }
                }
                if let Some(saga) = waiting.end().await {
                    return Ok(saga);
                }
            }
        }
        here = false;
        tokio::time::sleep_until(until.min(Instant::now() + LOOK_AGAIN)).await;
    }
    engine.read(&stream).await
}

/// Lets the owner of a shard wait.
async fn ask(
    engine: &Engine,
    shard: i64,
    whole: &StartSagaRequest,
    until: Instant,
    hops: Hops,
) -> Option<pb::Saga> {
    let owner = engine.owner(shard, hops).await.ok()?;
    let left = until.saturating_duration_since(Instant::now());
    let request = StartSagaRequest {
        wait: Some(chassis::timestamp::from_duration(left)),
        ..whole.clone()
    };
    let asked = starts::elsewhere(engine, (Some(shard), owner), request, hops).await;
    // One that stops answers early.
    asked.ok()?.saga.filter(|saga| saga.end_time.is_some())
}

/// Hears of a saga's end here.
pub(super) struct Waiter {
    engine: Engine,
    stream: StreamId,
    end: oneshot::Receiver<pb::Saga>,
    until: Instant,
}

impl Waiter {
    pub(super) fn new(
        engine: &Engine,
        stream: &StreamId,
        wait: Duration,
        until: Option<Instant>,
    ) -> Self {
        let wanted = Instant::now() + wait;
        // Early enough before the caller's own deadline to answer with the saga as it is.
        let until = until.map_or(wanted, |until| {
            wanted
                .min(until - ANSWER_BEFORE.min(until.saturating_duration_since(Instant::now()) / 4))
        });
        Self::until(engine, stream, until)
    }

    fn until(engine: &Engine, stream: &StreamId, until: Instant) -> Self {
        let end = engine.dispatch.quietly(|hub, _| hub.wait_for_end(stream));
        Self {
            engine: engine.clone(),
            stream: stream.clone(),
            end,
            until,
        }
    }

    async fn end(mut self) -> Option<pb::Saga> {
        tokio::time::timeout_at(self.until, &mut self.end)
            .await
            .ok()?
            .ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.end.close();
        self.engine
            .dispatch
            .quietly(|hub, _| hub.forget_waiters(&self.stream));
    }
}
