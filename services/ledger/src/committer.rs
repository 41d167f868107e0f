//! The committer: one task that decides every command and writes what they decided, many in one transaction.
//!
//! ```text
//! execute/post -> queue -> [ load missing states -> decide on cached state -> append in ONE transaction ] -> observer -> answers
//!                   ^ the next batch gathers here while this one is being flushed
//! ```

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use chassis::Env;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::decider::{Decider, Lookup, Observer};
use crate::error::ExecuteError;
use crate::log::Log;
use crate::store::{SnapshotRow, Store};
use crate::stream::check_name;
use crate::{Error, StreamId};

mod cache;
mod commit;
mod load;
mod round;

use cache::Cache;
use round::Round;

/// How the committer batches and what it keeps.
#[derive(Debug, Clone)]
pub struct CommitterOptions {
    /// Commands that may wait; more are answered with [`ExecuteError::Overloaded`].
    pub queue: usize,
    /// Commands decided together at most.
    pub max_batch: usize,
    /// How long a batch waits for more commands when the last one was large.
    pub linger: Duration,
    /// How many commands make a batch large enough for the next one to linger.
    pub linger_above: usize,
    /// States kept in memory.
    pub cache: usize,
    /// Most that they may weigh together, as [`Decider::weight`] says it.
    pub cache_weight: usize,
    /// A snapshot is taken after so many events of one stream, if the decider makes them; 0 takes none.
    pub snapshot_every: u64,
    /// Inbox rows are deleted after this, except those of barriers.
    pub inbox_retention: Duration,
    /// Inbox rows whose keys begin with `barrier/` are deleted after this. It must be longer than any saga may take: a compensation that finds no
    /// row of its action undoes nothing.
    pub barrier_retention: Duration,
    /// How often a database with several writers is asked for what the others wrote.
    pub poll: Duration,
    /// Tables that a newer replica kept and that nobody has brought forward for so long, although there was something to bring, are
    /// made again as this program knows them: the newer one was rolled back.
    pub newer_tables_abandoned: Duration,
}

impl Default for CommitterOptions {
    fn default() -> Self {
        Self {
            queue: 16_384,
            max_batch: 512,
            linger: Duration::from_micros(100),
            linger_above: 16,
            cache: 100_000,
            cache_weight: 32 * 1024 * 1024,
            snapshot_every: 200,
            inbox_retention: Duration::from_secs(7 * 24 * 3600),
            barrier_retention: Duration::from_secs(400 * 24 * 3600),
            poll: Duration::from_millis(50),
            newer_tables_abandoned: Duration::from_secs(30),
        }
    }
}

/// A command was carried out, or decided without any event, and what it was decided on is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed<R> {
    /// What the decider replied.
    pub reply: R,
    /// The position of its last event; for a decision without events the log's head. Reads that wait for it see what it saw.
    pub position: u64,
}

/// What a caller gets.
pub type Outcome<D> =
    Result<Executed<<D as Decider>::Reply>, ExecuteError<<D as Decider>::Rejection>>;

/// A caller's callback.
pub(crate) type Callback<D> = Box<dyn FnOnce(Outcome<D>) + Send>;

/// Who waits for an answer.
pub(crate) enum Answer<D: Decider> {
    Caller(oneshot::Sender<Outcome<D>>),
    Callback(Callback<D>),
    Nobody,
}

impl<D: Decider> Answer<D> {
    fn send(self, outcome: Outcome<D>) {
        match self {
            // A caller that has gone does not want the answer.
            Answer::Caller(caller) => drop(caller.send(outcome)),
            Answer::Callback(callback) => callback(outcome),
            Answer::Nobody => {}
        }
    }
}

/// A command in the queue.
pub(crate) struct Request<D: Decider> {
    pub(crate) command: D::Command,
    pub(crate) answer: Answer<D>,
}

/// A command with what it needs to be decided.
struct Waiting<D: Decider> {
    command: D::Command,
    answer: Answer<D>,
    streams: Vec<StreamId>,
    keys: Vec<Arc<str>>,
    attempts: u32,
}

/// How often a command may lose the race before its caller is told.
const MAX_ATTEMPTS: u32 = 100;

/// The state of the task.
pub(crate) struct Committer<D: Decider, O> {
    pub(crate) decider: Arc<D>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) log: Arc<Log>,
    pub(crate) observer: O,
    pub(crate) options: CommitterOptions,
    pub(crate) env: Env,
    pub(crate) queue: mpsc::UnboundedReceiver<Request<D>>,
    pub(crate) depth: Arc<AtomicUsize>,
    pub(crate) commits: Arc<AtomicU64>,
    pub(crate) stop: CancellationToken,
    pub(crate) inner: Inner<D>,
}

/// What the task remembers.
pub(crate) struct Inner<D: Decider> {
    cache: Cache<D::State>,
    waiting: VecDeque<Waiting<D>>,
    arrived: Vec<Request<D>>,
    snapshots: Vec<SnapshotRow>,
    /// Streams or whole reads that failed, for this round's commands.
    failed: HashMap<StreamId, Error>,
    /// Streams that were looked up in this round and do not exist.
    empty: Vec<StreamId>,
    inbox: HashMap<Arc<str>, Option<Arc<[u8]>>>,
    inbox_failed: Option<Error>,
    last_batch: usize,
    metrics: Metrics,
}

impl<D: Decider> Inner<D> {
    pub(crate) fn new(options: &CommitterOptions) -> Self {
        Self {
            cache: Cache::new(options.cache, options.cache_weight),
            waiting: VecDeque::new(),
            arrived: Vec::new(),
            snapshots: Vec::new(),
            failed: HashMap::new(),
            empty: Vec::new(),
            inbox: HashMap::new(),
            inbox_failed: None,
            last_batch: 0,
            metrics: Metrics::new(),
        }
    }
}

struct Metrics {
    commits: metrics::Counter,
    events: metrics::Counter,
    conflicts: metrics::Counter,
    failures: metrics::Counter,
    batch: metrics::Histogram,
    seconds: metrics::Histogram,
    depth: metrics::Gauge,
}

impl Metrics {
    fn new() -> Self {
        Self {
            commits: metrics::counter!("ledger_commits_total"),
            events: metrics::counter!("ledger_events_total"),
            conflicts: metrics::counter!("ledger_conflicts_total"),
            failures: metrics::counter!("ledger_commit_failures_total"),
            batch: metrics::histogram!("ledger_batch_commands"),
            seconds: metrics::histogram!("ledger_commit_seconds"),
            depth: metrics::gauge!("ledger_queue_depth"),
        }
    }
}

impl<D: Decider, O: Observer<D>> Committer<D, O> {
    /// Works until it is told to stop; then finishes what is in the queue. Later commands are refused by the closed queue.
    pub(crate) async fn run(mut self) {
        loop {
            if self.inner.waiting.is_empty() && !self.receive().await {
                break;
            }
            self.gather().await;
            self.round().await;
        }
    }

    /// Waits for the first command of a batch. False when it is time to stop.
    async fn receive(&mut self) -> bool {
        let limit = self.options.max_batch;
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            _ = self.queue.recv_many(&mut self.inner.arrived, limit) => {}
        }
        if self.queue.is_closed() {
            // What was taken before the end is still carried out.
            self.drain();
        } else {
            self.admit();
        }
        !self.inner.waiting.is_empty()
    }

    /// Takes what else has arrived; under load it waits a moment for more, which saves a flush.
    async fn gather(&mut self) {
        // Lets the callers that were just answered send their next commands.
        tokio::task::yield_now().await;
        self.drain();
        let loaded = self.inner.last_batch > self.options.linger_above;
        if loaded
            && self.inner.waiting.len() < self.inner.last_batch
            && !self.options.linger.is_zero()
        {
            let linger = self.options.linger;
            // The runtime's timer counts in milliseconds, which is too coarse.
            let _ = tokio::task::spawn_blocking(move || std::thread::sleep(linger)).await;
            self.drain();
        }
    }

    fn drain(&mut self) {
        while self.inner.waiting.len() + self.inner.arrived.len() < self.options.max_batch {
            match self.queue.try_recv() {
                Ok(request) => self.inner.arrived.push(request),
                Err(_) => break,
            }
        }
        self.admit();
    }

    fn admit(&mut self) {
        self.depth
            .fetch_sub(self.inner.arrived.len(), Ordering::Relaxed);
        for Request { command, answer } in self.inner.arrived.drain(..) {
            let streams = self.decider.streams(&command);
            let keys: Vec<Arc<str>> = self
                .decider
                .inbox_keys(&command)
                .into_iter()
                .map(Arc::from)
                .collect();
            let mut names = streams
                .iter()
                .map(StreamId::as_str)
                .chain(keys.iter().map(|key| &**key));
            if let Err(error) = names.try_for_each(check_name) {
                answer.send(Err(error.into()));
                continue;
            }
            self.inner.waiting.push_back(Waiting {
                command,
                answer,
                streams,
                keys,
                attempts: 0,
            });
        }
    }

    /// One batch, from decisions to answers.
    async fn round(&mut self) {
        self.load().await;
        let mut round = Round::new(&self.env, std::mem::take(&mut self.inner.snapshots));
        let take = self.inner.waiting.len().min(self.options.max_batch);
        for _ in 0..take {
            let Some(waiting) = self.inner.waiting.pop_front() else {
                break;
            };
            match self.unreadable(&waiting) {
                Some(error) => waiting.answer.send(Err(error.into())),
                None => self.decide(waiting, &mut round),
            }
        }
        self.inner.failed.clear();
        self.inner.inbox_failed = None;
        self.inner.last_batch = round.decided.len();
        self.inner
            .metrics
            .depth
            .set(self.depth.load(Ordering::Relaxed) as f64);
        self.commit(round).await;
        self.inner.inbox.clear();
        // They are not worth a place: whoever asks for a stream names it as they like.
        for stream in self.inner.empty.drain(..) {
            if self
                .inner
                .cache
                .get(&stream)
                .is_some_and(|(_, version)| version == 0)
            {
                self.inner.cache.remove(&stream);
            }
        }
        self.inner.cache.shrink();
    }

    /// Why a command cannot be decided, if something it needs could not be read.
    fn unreadable(&self, waiting: &Waiting<D>) -> Option<Error> {
        if let Some(error) = &self.inner.inbox_failed
            && waiting
                .keys
                .iter()
                .any(|key| !self.inner.inbox.contains_key(key))
        {
            return Some(error.clone());
        }
        if self.inner.failed.is_empty() {
            return None;
        }
        waiting
            .streams
            .iter()
            .find_map(|stream| self.inner.failed.get(stream).cloned())
    }

    fn decide(&mut self, waiting: Waiting<D>, round: &mut Round<D>) {
        let unread = |stream| !self.inner.cache.contains(stream);
        if waiting.streams.iter().any(unread) {
            // An earlier command of this round wants one of its streams to be read first.
            return self.look_first(waiting);
        }
        let facts = Facts {
            cache: &self.inner.cache,
            inbox: &self.inner.inbox,
        };
        // A panic of one decision must not end the ledger for all; decide() has changed nothing.
        let deciding = AssertUnwindSafe(|| {
            self.decider.decide(
                &crate::View::new(&facts),
                &waiting.command,
                round.batch.commit_millis,
            )
        });
        let Ok(result) = catch_unwind(deciding) else {
            let error = Error::Contract("decide() panicked; the log says where".into());
            waiting.answer.send(Err(error.into()));
            return;
        };
        if let Ok(decision) = &result
            && let Some(error) = self.contract(&waiting, decision)
        {
            tracing::error!(%error, "a decision was refused");
            waiting.answer.send(Err(error.into()));
            return;
        }
        if self.presumes_too_much(&waiting, &result) {
            return self.look_first(waiting);
        }
        round.touch(&waiting, &mut self.inner.cache, &self.inner.inbox);
        round.add(
            waiting,
            result,
            &*self.decider,
            &mut self.inner.cache,
            &mut self.inner.inbox,
        );
    }

    /// Whether a decision rests on a stream that nobody looked at and that it does not write to.
    fn presumes_too_much<E, R, J>(
        &self,
        waiting: &Waiting<D>,
        result: &Result<crate::Decision<E, R>, J>,
    ) -> bool {
        waiting
            .streams
            .iter()
            .filter(|stream| self.inner.cache.is_presumed(stream))
            .any(|stream| match result {
                Ok(decision) => !decision.events.iter().any(|(written, _)| written == stream),
                Err(_) => true,
            })
    }

    /// Decides a command again in the next round, after reading its streams.
    fn look_first(&mut self, mut waiting: Waiting<D>) {
        for stream in &waiting.streams {
            if self.inner.cache.is_presumed(stream) {
                self.inner.cache.remove(stream);
            }
        }
        waiting.attempts += 1;
        self.inner.waiting.push_back(waiting);
    }

    /// A decision may write only what its command named.
    fn contract(
        &self,
        waiting: &Waiting<D>,
        decision: &crate::Decision<D::Event, D::Reply>,
    ) -> Option<Error> {
        for (stream, _) in &decision.events {
            if !waiting.streams.contains(stream) {
                return Some(Error::Contract(format!(
                    "decide() wrote to stream {stream}, which streams() did not name"
                )));
            }
        }
        for (key, _) in &decision.inbox {
            match self.inner.inbox.get(key.as_str()) {
                Some(None) => {}
                Some(Some(_)) => {
                    return Some(Error::Contract(format!(
                        "decide() wrote inbox row {key}, which exists"
                    )));
                }
                None => {
                    return Some(Error::Contract(format!(
                        "decide() wrote inbox row {key}, which inbox_keys() did not name"
                    )));
                }
            }
        }
        None
    }
}

struct Facts<'a, S> {
    cache: &'a Cache<S>,
    inbox: &'a HashMap<Arc<str>, Option<Arc<[u8]>>>,
}

impl<S> Lookup<S> for Facts<'_, S> {
    fn state(&self, stream: &StreamId) -> Option<(&S, u64)> {
        self.cache.get(stream)
    }

    fn inbox(&self, key: &str) -> Option<&[u8]> {
        self.inbox.get(key)?.as_deref()
    }
}

/// Streams and keys that commands must be decided on again.
type Tainted = (HashSet<StreamId>, HashSet<Arc<str>>);
