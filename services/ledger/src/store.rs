//! Where batches become durable. Three implementations, one conformance suite.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use uuid::Uuid;

use crate::shards::LeaseTable;
use crate::sql::{Sql, Tx};
use crate::{Cursor, Error, Fence, Recorded, StreamId};

pub(crate) mod postgres;
pub(crate) mod schema;
pub(crate) mod simulated;
pub(crate) mod sqlite;

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An event on its way to storage. Its position is the batch's first position plus its index.
#[derive(Debug, Clone)]
pub(crate) struct EventRow {
    pub(crate) stream: StreamId,
    pub(crate) version: u64,
    pub(crate) type_name: &'static str,
    pub(crate) data: Arc<[u8]>,
}

/// A snapshot on its way to storage.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotRow {
    pub(crate) stream: StreamId,
    pub(crate) version: u64,
    pub(crate) data: Vec<u8>,
}

/// An inbox row as it is on record.
pub(crate) type InboxRow = (String, Vec<u8>);

/// What one transaction writes, and on what it was decided.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// Read back after an unanswered commit.
    pub(crate) id: Uuid,
    pub(crate) commit_millis: i64,
    pub(crate) events: Vec<EventRow>,
    pub(crate) inbox: Vec<(Arc<str>, Arc<[u8]>)>,
    pub(crate) cursors: Vec<Cursor>,
    pub(crate) snapshots: Vec<SnapshotRow>,
    /// Versions that the decisions saw, before this batch.
    pub(crate) expected: Vec<(StreamId, u64)>,
    /// Inbox keys that the decisions saw as absent.
    pub(crate) absent: Vec<Arc<str>>,
    /// Leases under which the events were decided, each once.
    pub(crate) fences: Vec<Fence>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.inbox.is_empty() && self.cursors.is_empty()
    }
}

/// Why a batch is not durable.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// These streams have other versions, these inbox keys exist, these shards are no longer leased. Nothing was written.
    Stale {
        streams: Vec<StreamId>,
        keys: Vec<String>,
        shards: Vec<i64>,
    },
    /// The outcome is not known until the batch is looked up.
    Failed(Error),
}

impl From<Error> for AppendError {
    fn from(error: Error) -> Self {
        AppendError::Failed(error)
    }
}

/// Version, type and data of an event whose stream is known.
pub(crate) type EventRest = (u64, String, Vec<u8>);

/// A stream as it is on record.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) stream: StreamId,
    pub(crate) snapshot: Option<(u64, Vec<u8>)>,
    /// Version, type and data of the events after the snapshot, in order.
    pub(crate) events: Vec<EventRest>,
}

/// Which inbox rows are old.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prune {
    /// Barrier rows from before this time, Unix milliseconds.
    pub(crate) barriers_before: i64,
    /// Other rows from before this time.
    pub(crate) others_before: i64,
    /// Up to this id only barrier rows are left.
    pub(crate) after: i64,
}

/// How far pruning got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pruned {
    /// For the next [`Prune`].
    pub(crate) after: i64,
    /// Whether there may be more to do at once.
    pub(crate) more: bool,
}

impl Prune {
    /// Up to which id a window of (id, time) is old.
    pub(crate) fn end(&self, window: &[(i64, i64)]) -> i64 {
        window
            .iter()
            .take_while(|(_, time)| *time < self.others_before)
            .last()
            .map_or(self.after, |(id, _)| *id)
    }
}

/// Rows after an id in time order, and what is deleted of them. Ids are in time order, so no index on time is needed.
pub(crate) const PRUNE_WINDOW: &str =
    "SELECT id, commit_time FROM ledger_inbox WHERE id > $1 ORDER BY id LIMIT 500";
pub(crate) const PRUNE_OTHERS: &str =
    "DELETE FROM ledger_inbox WHERE id > $1 AND id <= $2 AND substr(key, 1, 8) <> 'barrier/'";
pub(crate) const PRUNE_BARRIERS: &str = "DELETE FROM ledger_inbox WHERE commit_time < $1 AND id <= \
    (SELECT MAX(id) FROM (SELECT id FROM ledger_inbox ORDER BY id LIMIT 500) AS oldest)";

/// How a transaction outside of the committer is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// When it is answered.
    Now,
    /// With the next append: it can be done again from the log.
    Later,
}

/// One database.
pub(crate) trait Store: Send + Sync + 'static {
    /// Identifies the log; another one after a restore.
    fn log_id(&self) -> Arc<str>;
    /// What to call it in messages.
    fn name(&self) -> String;
    /// Whether nobody else can write.
    fn exclusive(&self) -> bool;
    /// Writes a batch in one transaction and returns the position of its first event.
    fn append<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<u64, AppendError>>;
    /// The first position of a batch whose commit was not answered; `None` if it was not written.
    fn find<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Option<u64>, Error>>;
    /// Streams from storage, in the order asked for.
    fn load<'a>(
        &'a self,
        streams: &'a [StreamId],
        snapshots: bool,
    ) -> BoxFuture<'a, Result<Vec<Loaded>, Error>>;
    /// The same for others than the committer, on connections that it does not wait for.
    fn peek<'a>(
        &'a self,
        streams: &'a [StreamId],
        snapshots: bool,
    ) -> BoxFuture<'a, Result<Vec<Loaded>, Error>> {
        self.load(streams, snapshots)
    }
    /// Version, type and data of a stream's events after a version, in order.
    fn tail<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
    ) -> BoxFuture<'a, Result<Vec<EventRest>, Error>>;
    /// Those of the inbox rows that exist.
    fn inbox<'a>(&'a self, keys: &'a [Arc<str>]) -> BoxFuture<'a, Result<Vec<InboxRow>, Error>>;
    /// Events after a position, in order.
    fn read(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Recorded>, Error>>;
    /// The newest durable position.
    fn head(&self) -> BoxFuture<'_, Result<u64, Error>>;
    /// Stream names with this prefix after `after`, in order.
    fn streams<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StreamId>, Error>>;
    /// A transaction on the writer.
    fn begin(&self, durability: Durability) -> BoxFuture<'_, Result<Tx, Error>>;
    /// Ends a transaction.
    fn commit(&self, tx: Tx) -> BoxFuture<'_, Result<(), Error>>;
    /// Read-only connections.
    fn reader(&self) -> Sql;
    /// Deletes old inbox rows, a few at once.
    fn prune_inbox(&self, prune: Prune) -> BoxFuture<'_, Result<Pruned, Error>>;
    /// Owners and leases, where others may write.
    fn leases(&self) -> Option<Arc<dyn LeaseTable>> {
        None
    }
    /// Housekeeping that must not delay commits (a checkpoint); `written` is how many events were written since the last one.
    fn maintain(&self) -> BoxFuture<'_, Result<(), Error>>;
    /// Closes connections.
    fn close(&self) -> BoxFuture<'_, ()>;
}
