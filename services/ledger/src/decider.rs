//! The decider: the one way that state changes. Everything here is pure.

use std::collections::BTreeMap;

use crate::{Error, StreamId};

/// Decides commands on the state of streams. Pure: no clock, no randomness, no I/O.
///
/// The committer calls it for many commands in a row and writes what they decided in one transaction.
pub trait Decider: Send + Sync + 'static {
    /// The state of one stream, folded from its events.
    type State: Send + 'static;
    /// What is written: usually an enum over the protobuf messages of the service.
    type Event: Send + 'static;
    /// What is asked for.
    type Command: Send + 'static;
    /// What a caller gets back once the events are durable.
    type Reply: Send + 'static;
    /// Why a command was refused.
    type Rejection: Send + 'static;

    /// Every stream that `decide` reads or writes for this command.
    fn streams(&self, command: &Self::Command) -> Vec<StreamId>;

    /// Whether all streams of this command are probably new. They are then not looked up first: if one of them exists
    /// after all, the append meets a conflict, the stream is read, and the command is decided again.
    fn expects_new(&self, _command: &Self::Command) -> bool {
        false
    }

    /// The inbox rows that `decide` reads or writes (request ids, barrier rows).
    fn inbox_keys(&self, _command: &Self::Command) -> Vec<String> {
        Vec::new()
    }

    /// The state of a stream without events.
    fn initial(&self, stream: &StreamId) -> Self::State;

    /// Applies one event, in place. Total: it never refuses what `decide` wrote.
    fn evolve(&self, state: &mut Self::State, event: &Self::Event);

    /// What the command does to the streams it named. `now_millis` is Unix time. A rejection and a decision without events
    /// are answered only once the versions they were decided on are durable.
    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Self::Command,
        now_millis: i64,
    ) -> Result<Decision<Self::Event, Self::Reply>, Self::Rejection>;

    /// Appends the encoded event to `buffer` and returns the full name of its protobuf message.
    fn encode(&self, event: &Self::Event, buffer: &mut Vec<u8>) -> &'static str;

    /// The inverse of `encode`.
    fn decode(&self, type_name: &str, data: &[u8]) -> Result<Self::Event, Error>;

    /// Another process owns the shard of this fence now: nothing was written, and the commands that were decided under it are decided again.
    fn fenced_off(&self, _fence: Fence) {}

    /// Whether a state may leave the cache at once, because it has ended.
    fn forget(&self, _state: &Self::State) -> bool {
        false
    }

    /// About how many bytes a state keeps beyond what every state does: of what callers sent, say. The cache is bounded in these too.
    fn weight(&self, _state: &Self::State) -> usize {
        0
    }

    /// The state as bytes, for long streams; `None` if this decider has no snapshots. Taken every
    /// [`CommitterOptions::snapshot_every`](crate::CommitterOptions::snapshot_every) events.
    fn snapshot(&self, _state: &Self::State) -> Option<Vec<u8>> {
        None
    }

    /// The state from a snapshot; `None` if its format is not known any more: the stream is then read from its start.
    fn restore(&self, _stream: &StreamId, _snapshot: &[u8]) -> Option<Self::State> {
        None
    }
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<E, R> {
    /// Events to append, each to a stream that the command named, in order.
    pub events: Vec<(StreamId, E)>,
    /// Inbox rows to add, each under a key that [`Decider::inbox_keys`] named. A key is written once; rows leave after the
    /// inbox's retention.
    pub inbox: Vec<(String, Vec<u8>)>,
    /// How far another service's feed was consumed by this decision; stored in the same transaction.
    pub cursor: Option<Cursor>,
    /// Under which lease the events may be written; nothing is written once another process holds it. `None`: whoever comes first writes.
    pub fence: Option<Fence>,
    /// What the caller gets.
    pub reply: R,
}

/// A lease on a shard, as the process that decides knows it. Checked where the events are written, in the same statement. A store that is for one
/// process has nobody to fence off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// The shard.
    pub shard: i64,
    /// How often it had changed hands when this process took it.
    pub epoch: i64,
}

impl<E, R> Decision<E, R> {
    /// A decision that changes nothing.
    pub fn new(reply: R) -> Self {
        Self {
            events: Vec::new(),
            inbox: Vec::new(),
            cursor: None,
            fence: None,
            reply,
        }
    }

    /// Appends an event to a stream.
    pub fn event(mut self, stream: StreamId, event: E) -> Self {
        self.events.push((stream, event));
        self
    }

    /// Appends events to one stream.
    pub fn events(mut self, stream: &StreamId, events: impl IntoIterator<Item = E>) -> Self {
        self.events
            .extend(events.into_iter().map(|event| (stream.clone(), event)));
        self
    }

    /// Adds an inbox row.
    pub fn inbox(mut self, key: impl Into<String>, value: Vec<u8>) -> Self {
        self.inbox.push((key.into(), value));
        self
    }

    /// Writes only under a lease.
    pub fn fenced(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Stores how far a feed was consumed.
    pub fn cursor(mut self, cursor: Cursor) -> Self {
        self.cursor = Some(cursor);
        self
    }
}

/// How far a consumer has handled another service's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The consumer's name.
    pub consumer: String,
    /// The log it follows.
    pub log_id: String,
    /// The position of the last event it handled.
    pub position: u64,
}

/// Where a [`View`] finds states and inbox rows.
pub(crate) trait Lookup<S> {
    fn state(&self, stream: &StreamId) -> Option<(&S, u64)>;
    fn inbox(&self, key: &str) -> Option<&[u8]>;
}

/// What a command may look at: the streams and inbox rows that it named.
pub struct View<'a, D: Decider + ?Sized> {
    lookup: &'a dyn Lookup<D::State>,
}

impl<'a, D: Decider + ?Sized> View<'a, D> {
    pub(crate) fn new(lookup: &'a dyn Lookup<D::State>) -> Self {
        Self { lookup }
    }

    /// The state of a stream.
    ///
    /// # Panics
    /// If [`Decider::streams`] did not name the stream for this command.
    pub fn state(&self, stream: &StreamId) -> &'a D::State {
        self.find(stream).0
    }

    /// How many events the stream has.
    ///
    /// # Panics
    /// If [`Decider::streams`] did not name the stream for this command.
    pub fn version(&self, stream: &StreamId) -> u64 {
        self.find(stream).1
    }

    /// An inbox row, if it exists; only keys that [`Decider::inbox_keys`] named are ever found.
    pub fn inbox(&self, key: &str) -> Option<&'a [u8]> {
        self.lookup.inbox(key)
    }

    fn find(&self, stream: &StreamId) -> (&'a D::State, u64) {
        match self.lookup.state(stream) {
            Some(found) => found,
            None => panic!("decide() looked at stream {stream}, which streams() did not name"),
        }
    }
}

/// One event that has become durable, as an [`Observer`] sees it.
pub struct Committed<'a, D: Decider + ?Sized> {
    /// The stream it belongs to.
    pub stream: &'a StreamId,
    /// Place within the stream, from 1.
    pub version: u64,
    /// Place in the log, from 1.
    pub position: u64,
    /// The event.
    pub event: &'a D::Event,
    /// The stream's state after the whole batch: it is durable, and newer than this event if the batch holds later events of the
    /// same stream.
    pub state: &'a D::State,
    /// When the batch was decided, Unix milliseconds.
    pub commit_millis: i64,
}

/// Sees every event once it is durable, on the committer's task, before the callers of its batch are answered. It must not block.
/// It sees what this process wrote; what it misses by a crash is found again from the states on recovery.
pub trait Observer<D: Decider + ?Sized>: Send + 'static {
    /// One batch was committed. Events are in log order.
    fn committed(&mut self, commits: &[Committed<'_, D>]);

    /// A batch is known to be durable, and [`Observer::committed`] follows only once states have been read again: whoever acts on earlier ones waits.
    fn behind(&mut self) {}
}

/// Observes nothing.
impl<D: Decider + ?Sized> Observer<D> for () {
    fn committed(&mut self, _commits: &[Committed<'_, D>]) {}
}

/// States and inbox rows for a decider's own tests: given these events, when this command, then that decision.
pub struct Given<D: Decider> {
    decider: D,
    states: BTreeMap<StreamId, (D::State, u64)>,
    inbox: BTreeMap<String, Vec<u8>>,
}

impl<D: Decider> Given<D> {
    /// Nothing has happened yet.
    pub fn new(decider: D) -> Self {
        Self {
            decider,
            states: BTreeMap::new(),
            inbox: BTreeMap::new(),
        }
    }

    /// An event that has happened.
    pub fn event(&mut self, stream: &StreamId, event: &D::Event) -> &mut Self {
        let initial = self.decider.initial(stream);
        let entry = self.states.entry(stream.clone()).or_insert((initial, 0));
        self.decider.evolve(&mut entry.0, event);
        entry.1 += 1;
        self
    }

    /// An inbox row that exists.
    pub fn inbox(&mut self, key: impl Into<String>, value: Vec<u8>) -> &mut Self {
        self.inbox.insert(key.into(), value);
        self
    }

    /// Decides a command, and applies what it decided.
    pub fn when(
        &mut self,
        command: &D::Command,
        now_millis: i64,
    ) -> Result<Decision<D::Event, D::Reply>, D::Rejection> {
        for stream in self.decider.streams(command) {
            let initial = self.decider.initial(&stream);
            self.states.entry(stream).or_insert((initial, 0));
        }
        let decision = self.decider.decide(&View::new(self), command, now_millis)?;
        for (stream, event) in &decision.events {
            self.event(stream, event);
        }
        for (key, value) in &decision.inbox {
            self.inbox.insert(key.clone(), value.clone());
        }
        Ok(decision)
    }

    /// The state of a stream.
    pub fn state(&self, stream: &StreamId) -> Option<&D::State> {
        self.states.get(stream).map(|(state, _)| state)
    }
}

impl<D: Decider> Lookup<D::State> for Given<D> {
    fn state(&self, stream: &StreamId) -> Option<(&D::State, u64)> {
        self.states
            .get(stream)
            .map(|(state, version)| (state, *version))
    }

    fn inbox(&self, key: &str) -> Option<&[u8]> {
        self.inbox.get(key).map(Vec::as_slice)
    }
}
