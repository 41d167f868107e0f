//! From a decided round to durable events and truthful answers.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::round::Round;
use super::{Committer, Executed, Inner, MAX_ATTEMPTS, Tainted};
use crate::decider::{Committed, Decider, Fence, Observer};
use crate::error::ExecuteError;
use crate::store::{AppendError, SnapshotRow};
use crate::{Error, Recorded, StreamId};

impl<D: Decider, O: Observer<D>> Committer<D, O> {
    /// Makes a round durable and answers everyone in it.
    pub(super) async fn commit(&mut self, mut round: Round<D>) {
        loop {
            if round.decided.is_empty() {
                return;
            }
            // What appends nothing still needs its versions confirmed where others write too.
            let nothing = round.batch.is_empty();
            if nothing && self.store.exclusive() {
                self.inner.snapshots = std::mem::take(&mut round.batch.snapshots);
                self.settle(&round);
                return self.answer(round, self.log.head());
            }
            let started = Instant::now();
            match self.store.append(&round.batch).await {
                Ok(first) => {
                    self.measure(&round, started);
                    return self.committed(round, first).await;
                }
                Err(AppendError::Stale {
                    streams,
                    keys,
                    shards,
                }) => {
                    self.inner.metrics.conflicts.increment(1);
                    let tainted = (
                        streams.into_iter().collect(),
                        keys.into_iter().map(Into::into).collect(),
                    );
                    let lost = |fence: &&Fence| shards.contains(&fence.shard);
                    for fence in round.batch.fences.iter().filter(lost) {
                        self.decider.fenced_off(*fence);
                    }
                    self.drop_stale(&mut round, tainted, &shards);
                }
                Err(AppendError::Failed(error)) => return self.failed(round, error).await,
            }
        }
    }

    fn measure(&self, round: &Round<D>, started: Instant) {
        let metrics = &self.inner.metrics;
        self.commits
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        metrics.commits.increment(1);
        metrics.events.increment(round.batch.events.len() as u64);
        metrics.batch.record(round.decided.len() as f64);
        metrics.seconds.record(started.elapsed().as_secs_f64());
    }

    /// The losers of a race go back to the front of the queue, to be decided on fresh state.
    fn drop_stale(&mut self, round: &mut Round<D>, mut tainted: Tainted, lost: &[i64]) {
        let dropped = round.remove_stale(&mut tainted, lost);
        if dropped.is_empty() {
            // The store named nothing that this round looked at: everything is decided again.
            tainted.0.extend(
                round
                    .decided
                    .iter()
                    .flat_map(|one| one.waiting.streams.iter().cloned()),
            );
            tainted.1.extend(
                round
                    .decided
                    .iter()
                    .flat_map(|one| one.waiting.keys.iter().cloned()),
            );
            let all = round.remove_stale(&mut tainted, lost);
            return self.requeue(all, tainted);
        }
        self.requeue(dropped, tainted);
    }

    fn requeue(&mut self, dropped: Vec<super::Waiting<D>>, tainted: Tainted) {
        for stream in &tainted.0 {
            self.inner.cache.remove(stream);
        }
        for mut waiting in dropped.into_iter().rev() {
            waiting.attempts += 1;
            if waiting.attempts >= MAX_ATTEMPTS {
                waiting
                    .answer
                    .send(Err(Error::Contended(MAX_ATTEMPTS).into()));
            } else {
                self.inner.waiting.push_front(waiting);
            }
        }
    }

    /// Durable: tell followers and the observer, then the callers.
    async fn committed(&mut self, round: Round<D>, first: u64) {
        let batch = &round.batch;
        let last = (first + batch.events.len() as u64).saturating_sub(1);
        if !batch.events.is_empty() {
            let absent = self.absent(&round);
            if !absent.is_empty() {
                self.observer.behind();
                self.recall(absent).await;
            }
            let commit_millis = batch.commit_millis;
            self.log.push(
                batch.events.iter().enumerate().map(|(at, row)| Recorded {
                    position: first + at as u64,
                    stream: row.stream.clone(),
                    version: row.version,
                    type_name: row.type_name.into(),
                    data: row.data.clone(),
                    commit_millis,
                }),
                last,
            );
            self.observe(&round, first);
        }
        self.settle(&round);
        self.answer(round, first);
    }

    /// Reads the states that the observer wants and memory has lost, however often that takes: what it does not see is not acted upon until the
    /// next start.
    async fn recall(&mut self, mut absent: Vec<StreamId>) {
        let mut pause = Duration::from_millis(5);
        while !absent.is_empty() {
            self.inner.failed.clear();
            self.load_streams(&absent).await;
            let Inner { cache, failed, .. } = &self.inner;
            absent.retain(|stream| {
                !cache.contains(stream) && !failed.get(stream).is_some_and(Error::is_permanent)
            });
            if absent.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
            }
        }
        for (stream, error) in self.inner.failed.drain() {
            tracing::error!(%stream, %error, "events are durable, but their stream cannot be read; nobody is told of them");
        }
    }

    /// Streams of a batch that a lost race or a failure took out of memory; the observer wants their states.
    fn absent(&self, round: &Round<D>) -> Vec<StreamId> {
        let rows = round.batch.events.iter().map(|row| &row.stream);
        let missing: BTreeSet<_> = rows
            .filter(|stream| !self.inner.cache.contains(stream))
            .collect();
        missing.into_iter().cloned().collect()
    }

    fn observe(&mut self, round: &Round<D>, first: u64) {
        let cache = &self.inner.cache;
        let commits: Vec<Committed<'_, D>> = round
            .batch
            .events
            .iter()
            .zip(&round.events)
            .enumerate()
            .filter_map(|(at, (row, event))| {
                Some(Committed {
                    stream: &row.stream,
                    version: row.version,
                    position: first + at as u64,
                    event,
                    state: cache.get(&row.stream)?.0,
                    commit_millis: round.batch.commit_millis,
                })
            })
            .collect();
        self.observer.committed(&commits);
    }

    /// What has ended, and what does not exist, leaves memory, also if it was only looked at; what has grown long gets a snapshot with
    /// the next commit.
    fn settle(&mut self, round: &Round<D>) {
        let every = self.options.snapshot_every;
        for (stream, before) in &round.batch.expected {
            let Some(entry) = self.inner.cache.entry(stream) else {
                continue;
            };
            if every > 0
                && entry.version > *before
                && entry.version >= entry.snapshot + every
                && let Some(data) = self.decider.snapshot(&entry.state)
            {
                entry.snapshot = entry.version;
                self.inner.snapshots.push(SnapshotRow {
                    stream: stream.clone(),
                    version: entry.version,
                    data,
                });
            }
            if entry.version == 0 || self.decider.forget(&entry.state) {
                self.inner.cache.remove(stream);
                continue;
            }
            let weight = self.decider.weight(&entry.state);
            if weight != entry.weight {
                self.inner.cache.weigh(stream, weight);
            }
        }
    }

    fn answer(&self, round: Round<D>, first: u64) {
        let head = self.log.head();
        for one in round.decided {
            let position = if one.events.is_empty() {
                head
            } else {
                first + one.events.end as u64 - 1
            };
            one.waiting.answer.send(match one.result {
                Ok(reply) => Ok(Executed { reply, position }),
                Err(rejection) => Err(ExecuteError::Rejected(rejection)),
            });
        }
    }

    /// The outcome of a commit is in doubt: memory is forgotten, and storage is asked before anyone is answered.
    async fn failed(&mut self, round: Round<D>, error: Error) {
        self.inner.metrics.failures.increment(1);
        tracing::warn!(%error, batch = %round.batch.id, "a commit failed or was not answered; looking it up");
        self.inner.cache.clear();
        self.inner.inbox.clear();
        let mut pause = Duration::from_millis(5);
        let found = loop {
            match self.store.find(&round.batch).await {
                Ok(found) => break found,
                Err(error) => {
                    tracing::warn!(%error, batch = %round.batch.id, "the batch could not be looked up")
                }
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
                () = self.stop.cancelled() => {
                    for one in round.decided {
                        one.waiting.answer.send(Err(ExecuteError::Unavailable));
                    }
                    return;
                }
            }
        };
        match found {
            Some(first) => self.committed(round, first).await,
            None => {
                for one in round.decided {
                    one.waiting.answer.send(Err(error.clone().into()));
                }
            }
        }
    }
}
