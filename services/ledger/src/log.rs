//! The log as followers see it: recent events from memory, older ones from storage.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::store::Store;
use crate::{Error, Recorded};

/// How many recent events, and how many bytes of them, are kept in memory.
const TAIL_EVENTS: usize = 16 << 10;
const TAIL_BYTES: usize = 8 << 20;

/// The log of one database. What it returns is durable, dense and in commit order.
pub(crate) struct Log {
    store: Arc<dyn Store>,
    tail: Mutex<Tail>,
    head: watch::Sender<u64>,
    /// A channel for each follower: the receivers of one are woken in no certain order, and a simulation must run the same way twice.
    followers: Mutex<Vec<watch::Sender<u64>>>,
}

#[derive(Default)]
struct Tail {
    events: VecDeque<Recorded>,
    bytes: usize,
}

impl Log {
    pub(crate) fn new(store: Arc<dyn Store>, head: u64) -> Self {
        Self {
            store,
            tail: Mutex::default(),
            head: watch::Sender::new(head),
            followers: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> Arc<str> {
        self.store.log_id()
    }

    /// The newest durable position this process knows of.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// The newest durable position, whoever wrote it.
    pub(crate) async fn newest(&self) -> Result<u64, Error> {
        if !self.store.exclusive() {
            self.advance(self.store.head().await?);
        }
        Ok(self.head())
    }

    /// Changes when the head does.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        let mut followers = self.followers();
        followers.retain(|follower| follower.receiver_count() > 0);
        let (follower, changes) = watch::channel(self.head());
        followers.push(follower);
        changes
    }

    /// Events that were just committed. A gap before them (another writer) empties the tail.
    pub(crate) fn push(&self, events: impl ExactSizeIterator<Item = Recorded>, last: u64) {
        {
            let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
            let first = last + 1 - events.len() as u64;
            if tail
                .events
                .back()
                .is_some_and(|newest| newest.position + 1 != first)
            {
                *tail = Tail::default();
            }
            for event in events {
                tail.bytes += weight(&event);
                tail.events.push_back(event);
            }
            while tail.events.len() > TAIL_EVENTS || tail.bytes > TAIL_BYTES {
                let Some(oldest) = tail.events.pop_front() else {
                    break;
                };
                tail.bytes -= weight(&oldest);
            }
        }
        self.advance(last);
    }

    /// Another writer has got as far as this.
    pub(crate) fn advance(&self, head: u64) {
        raise(&self.head, head);
        for follower in &*self.followers() {
            raise(follower, head);
        }
    }

    fn followers(&self) -> MutexGuard<'_, Vec<watch::Sender<u64>>> {
        self.followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `limit` events after a position; empty when there are none yet.
    pub(crate) async fn read(&self, after: u64, limit: usize) -> Result<Vec<Recorded>, Error> {
        if after >= self.head() {
            return Ok(Vec::new());
        }
        if let Some(events) = self.recent(after, limit) {
            return Ok(events);
        }
        self.store.read(after, limit).await
    }

    /// The same, if memory has it.
    fn recent(&self, after: u64, limit: usize) -> Option<Vec<Recorded>> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = tail.events.front()?.position;
        let skip = usize::try_from((after + 1).checked_sub(oldest)?).ok()?;
        (skip < tail.events.len()).then(|| tail.events.range(skip..).take(limit).cloned().collect())
    }
}

fn raise(known: &watch::Sender<u64>, head: u64) {
    known.send_if_modified(|known| {
        let newer = head > *known;
        *known = head.max(*known);
        newer
    });
}

fn weight(event: &Recorded) -> usize {
    event.data.len() + 160
}
