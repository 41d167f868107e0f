//! The handle that services hold.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use chassis::{Domain, Env, Problem, Tasks};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::committer::{Answer, Committer, CommitterOptions, Executed, Inner, Outcome, Request};
use crate::config::StoreConfig;
use crate::decider::{Cursor, Decider, Observer};
use crate::error::ExecuteError;
use crate::feed::{FeedService, Subscription};
use crate::log::Log;
use crate::projection::{Followers, Projection};
use crate::restore::{Read, Restored, restore};
use crate::shards::{Member, Shards};
use crate::sql::{Sql, Tx};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Durability, Prune, Store};
use crate::{Error, Recorded, StreamId};

/// One database with its decider. Cheap to clone.
pub struct Ledger<D: Decider> {
    shared: Arc<Shared<D>>,
}

impl<D: Decider> Clone for Ledger<D> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

struct Shared<D: Decider> {
    store: Arc<dyn Store>,
    log: Arc<Log>,
    decider: Arc<D>,
    queue: mpsc::UnboundedSender<Request<D>>,
    depth: Arc<AtomicUsize>,
    commits: Arc<AtomicU64>,
    capacity: usize,
    followers: Followers,
    tasks: Tasks,
    /// Cancelled once the committer has ended.
    finished: CancellationToken,
}

impl<D: Decider> Ledger<D> {
    /// Opens the database, starts the committer and the projections.
    ///
    /// # Errors
    /// When the database is damaged, newer than this program, in use by another process or unreachable; the message says what to do.
    pub async fn open(
        store: StoreConfig,
        decider: D,
        observer: impl Observer<D>,
        projections: Vec<Box<dyn Projection>>,
        env: &Env,
        tasks: &Tasks,
        options: CommitterOptions,
    ) -> Result<Self, Error> {
        // A simulated disk has no flush that is worth waiting for, and its time is not the threads' time.
        let linger = match store.simulated {
            Some(_) => Duration::ZERO,
            None => options.linger,
        };
        let options = CommitterOptions { linger, ..options };
        let store = connect(&store).await?;
        let log = Arc::new(Log::new(Arc::clone(&store), store.head().await?));
        let followers = Followers::start(
            &store,
            &log,
            projections,
            tasks,
            options.newer_tables_abandoned,
        )
        .await?;
        let (queue, receiver) = mpsc::unbounded_channel();
        let depth = Arc::new(AtomicUsize::new(0));
        let commits = Arc::new(AtomicU64::new(0));
        let decider = Arc::new(decider);
        let capacity = options.queue;
        let poll = options.poll;
        let retention = (options.inbox_retention, options.barrier_retention);
        let committer = Committer {
            inner: Inner::new(&options),
            decider: Arc::clone(&decider),
            store: Arc::clone(&store),
            log: Arc::clone(&log),
            observer,
            options,
            env: env.clone(),
            queue: receiver,
            depth: Arc::clone(&depth),
            commits: Arc::clone(&commits),
            stop: tasks.token(),
        };
        let finished = CancellationToken::new();
        let guard = finished.clone().drop_guard();
        tasks.spawn_essential("ledger-committer", async move {
            let _guard = guard;
            committer.run().await;
        });
        tasks.spawn_essential(
            "ledger-upkeep",
            upkeep(Arc::clone(&store), env.clone(), retention, tasks.clone()),
        );
        if !store.exclusive() {
            tasks.spawn_essential(
                "ledger-poll",
                poll_head(Arc::clone(&store), Arc::clone(&log), poll, tasks.clone()),
            );
        }
        let shared = Shared {
            store,
            log,
            decider,
            queue,
            depth,
            commits,
            capacity,
            followers,
            tasks: tasks.clone(),
            finished,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Decides a command and answers once its events are durable. Dropping the future does not take the command back.
    pub async fn execute(&self, command: D::Command) -> Outcome<D> {
        let shared = &self.shared;
        if shared.depth.load(Ordering::Relaxed) >= shared.capacity {
            return Err(ExecuteError::Overloaded);
        }
        let (caller, answer) = oneshot::channel();
        self.send(command, Answer::Caller(caller));
        answer.await.unwrap_or(Err(ExecuteError::Unavailable))
    }

    /// Decides a command without waiting; what came of it is seen by the [`Observer`]. It is never shed: use it for work whose amount is bounded
    /// in another way, such as credits.
    pub fn post(&self, command: D::Command) {
        self.send(command, Answer::Nobody);
    }

    /// Like [`post`](Self::post), with a callback for the outcome. It runs on the committer's task and must not block.
    pub fn post_with(
        &self,
        command: D::Command,
        callback: impl FnOnce(Outcome<D>) + Send + 'static,
    ) {
        self.send(command, Answer::Callback(Box::new(callback)));
    }

    fn send(&self, command: D::Command, answer: Answer<D>) {
        self.shared.depth.fetch_add(1, Ordering::Relaxed);
        if let Err(refused) = self.shared.queue.send(Request { command, answer }) {
            self.shared.depth.fetch_sub(1, Ordering::Relaxed);
            if let Answer::Callback(callback) = refused.0.answer {
                callback(Err(ExecuteError::Unavailable));
            }
        }
    }

    /// Commands that wait to be decided.
    pub fn queue_depth(&self) -> usize {
        self.shared.depth.load(Ordering::Relaxed)
    }

    /// How many batches this process has committed.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// The decider.
    pub fn decider(&self) -> &D {
        &self.shared.decider
    }

    /// Identifies this log; another one after a restore.
    pub fn log_id(&self) -> Arc<str> {
        self.shared.log.id()
    }

    /// The newest durable position this process knows of.
    pub fn head(&self) -> u64 {
        self.shared.log.head()
    }

    /// The newest durable position, whoever wrote it.
    pub async fn newest(&self) -> Result<u64, Error> {
        self.shared.log.newest().await
    }

    /// Read-only connections, for queries on projections.
    pub fn reader(&self) -> Sql {
        self.shared.store.reader()
    }

    /// Waits until a projection has applied everything up to a position, so that a read finds what a write returned.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `within`.
    pub async fn wait_for_projection(
        &self,
        name: &str,
        position: u64,
        within: Duration,
    ) -> Result<(), Error> {
        self.shared.followers.wait(name, position, within).await
    }

    /// Waits until what a caller asks for (`min_position`; 0 asks for nothing) can be read, so long that its answer still comes before its deadline.
    ///
    /// # Errors
    /// Those of [`Domain::not_reached`] and [`Domain::storage`].
    pub async fn reach(
        &self,
        name: &str,
        min_position: u64,
        otherwise: Duration,
        errors: Domain,
    ) -> Result<(), Problem> {
        if min_position == 0 {
            return Ok(());
        }
        let within = chassis::deadline::patience(otherwise);
        match self.wait_for_projection(name, min_position, within).await {
            Err(Error::Timeout(_)) => Err(errors.not_reached(min_position, self.head())),
            reached => reached.map_err(|error| errors.storage(error.is_transient(), &error)),
        }
    }

    /// How far a projection has got.
    pub fn projection_position(&self, name: &str) -> Result<u64, Error> {
        self.shared.followers.position(name)
    }

    /// Empties a projection's tables and fills them again from the log. Returns when the tables are empty; use
    /// [`wait_for_projection`](Self::wait_for_projection) to wait for the rest.
    pub async fn rebuild(&self, name: &str) -> Result<(), Error> {
        self.shared.followers.rebuild(name).await
    }

    /// The gRPC service `ledger.v1.FeedService`.
    pub fn feed(&self) -> FeedService {
        FeedService::new(Arc::clone(&self.shared.log), self.shared.tasks.draining())
    }

    /// Follows the log in this process, from after a position.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] beyond the head.
    pub fn subscribe(&self, after: u64) -> Result<Subscription, Error> {
        Subscription::new(Arc::clone(&self.shared.log), after)
    }

    /// Up to `limit` events after a position.
    pub async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<Recorded>, Error> {
        self.shared.log.read(after, limit).await
    }

    /// The events of one stream, from after a version; never ahead of what is durable.
    pub async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
    ) -> Result<Vec<(u64, D::Event)>, Error> {
        let events = self.shared.store.tail(stream, after).await?;
        events
            .into_iter()
            .map(|(version, type_name, data)| {
                Ok((version, self.decider().decode(&type_name, &data)?))
            })
            .collect()
    }

    /// The durable state and version of one stream, read from storage: for queries on single streams and for recovery.
    pub async fn load(&self, stream: &StreamId) -> Result<(D::State, u64), Error> {
        let mut states = self.load_many(std::slice::from_ref(stream)).await?;
        states
            .pop()
            .map(|(_, state, version)| (state, version))
            .ok_or(Error::Closed)
    }

    /// The durable states of many streams.
    pub async fn load_many(
        &self,
        streams: &[StreamId],
    ) -> Result<Vec<(StreamId, D::State, u64)>, Error> {
        let read: Read = |store, streams, snapshots| store.peek(streams, snapshots);
        let restored = restore(self.decider(), &*self.shared.store, read, streams).await?;
        restored
            .into_iter()
            .map(|(stream, restored)| {
                let Restored { state, version, .. } = restored?;
                Ok((stream, state, version))
            })
            .collect()
    }

    /// Names of streams that start with `prefix`, in order, after `after` (empty: from the first).
    pub async fn streams(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<StreamId>, Error> {
        self.shared.store.streams(prefix, after, limit).await
    }

    /// Runs a transaction on the writer, for tables that belong to the service and are not projections. Commits wait for it: keep it short. It is
    /// durable when it returns.
    pub async fn transact<T, F>(&self, work: F) -> Result<T, Error>
    where
        F: for<'a> FnOnce(
            &'a mut Tx,
        )
            -> std::pin::Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>,
    {
        let mut tx = self.shared.store.begin(Durability::Now).await?;
        let value = work(&mut tx).await?;
        self.shared.store.commit(tx).await?;
        Ok(value)
    }

    /// How far a consumer has handled another service's feed; see [`Cursor`].
    pub async fn cursor(&self, consumer: &str) -> Result<Option<Cursor>, Error> {
        let sql = "SELECT log_id, position FROM ledger_cursors WHERE consumer = $1";
        let row = self
            .reader()
            .fetch_optional(sql, crate::params![consumer])
            .await?;
        row.map(|row| {
            Ok(Cursor {
                consumer: consumer.to_owned(),
                log_id: row.get(0)?,
                position: row.get(1)?,
            })
        })
        .transpose()
    }

    /// Shards that processes of the name `me` and others share, each owned by one of them at a time; `None` where the log is for one process, which owns
    /// everything. `lease` is how long what a process owns stays its own without a sign of life.
    pub fn shards(&self, me: Member, lease: Duration) -> Option<Shards> {
        let table = self.shared.store.leases()?;
        Some(Shards::new(table, Arc::clone(&self.shared.log), me, lease))
    }

    /// Returns once nothing is written any more: the process was told to stop, and what had been asked before has been carried out, or given up.
    pub async fn finished(&self) {
        self.shared.finished.cancelled().await;
    }

    /// Closes the database. Call it after the tasks have ended; without it the next open replays the write-ahead log.
    pub async fn close(&self) {
        self.shared.store.close().await;
    }
}

async fn connect(config: &StoreConfig) -> Result<Arc<dyn Store>, Error> {
    if let Some(disk) = &config.simulated {
        return Ok(Arc::new(disk.open().await?));
    }
    if !config.database_url.is_empty() {
        return Ok(Arc::new(PostgresStore::open(config).await?));
    }
    Ok(Arc::new(SqliteStore::open(&config.sqlite_path()).await?))
}

/// Checkpoints and old inbox rows.
async fn upkeep(store: Arc<dyn Store>, env: Env, retention: (Duration, Duration), tasks: Tasks) {
    let token = tasks.token();
    let mut until_prune = 0u32;
    let mut after = 0;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            () = token.cancelled() => return,
        }
        if let Err(error) = store.maintain().await {
            tracing::warn!(%error, "a checkpoint failed; it is tried again");
        }
        until_prune = until_prune.saturating_sub(1);
        if until_prune > 0 {
            continue;
        }
        let before = |retention: Duration| {
            let millis = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
            env.clock.now_millis().saturating_sub(millis)
        };
        let prune = Prune {
            others_before: before(retention.0),
            barriers_before: before(retention.1),
            after,
        };
        match store.prune_inbox(prune).await {
            // More may be waiting: a few at a time, so that commits are not held up.
            Ok(pruned) => {
                after = pruned.after;
                until_prune = if pruned.more { 1 } else { 600 };
            }
            Err(error) => {
                tracing::warn!(%error, "old inbox rows could not be deleted; it is tried again");
                until_prune = 600;
            }
        }
    }
}

/// Learns what other writers have written.
async fn poll_head(store: Arc<dyn Store>, log: Arc<Log>, every: Duration, tasks: Tasks) {
    let token = tasks.token();
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(every) => {}
            () = token.cancelled() => return,
        }
        match store.head().await {
            Ok(head) => log.advance(head),
            Err(error) => tracing::debug!(%error, "the head could not be read"),
        }
    }
}

impl<D: Decider> std::fmt::Debug for Ledger<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("store", &self.shared.store.name())
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

/// What [`Ledger::execute`] returns, without naming the decider.
pub type Answered<R, J> = Result<Executed<R>, ExecuteError<J>>;
