//! The feed: the log as others follow it, in this process and over gRPC.

use std::sync::Arc;

use tokio::sync::watch;

use crate::log::Log;
use crate::{Error, Recorded};

mod consumer;
mod service;

pub use consumer::{Consumer, Handler, Received};
pub use service::FeedService;

/// Events of a log from a position on, in this process. Dense, in commit order, never ahead of what is durable.
pub struct Subscription {
    log: Arc<Log>,
    head: watch::Receiver<u64>,
    position: u64,
}

impl Subscription {
    pub(crate) fn new(log: Arc<Log>, after: u64) -> Result<Self, Error> {
        let head = log.watch();
        if after > log.head() {
            return Err(Error::OutOfRange {
                position: after,
                oldest: 1,
                head: log.head(),
            });
        }
        Ok(Self {
            log,
            head,
            position: after,
        })
    }

    /// The position of the last event that was returned.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The newest position in the log.
    pub fn head(&self) -> u64 {
        self.log.head()
    }

    /// The next events, at least one and at most `limit`. Waits for them. Nothing is lost when the future is dropped.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Recorded>, Error> {
        loop {
            self.head.mark_unchanged();
            let events = self.log.read(self.position, limit.max(1)).await?;
            if let Some(last) = events.last() {
                self.position = last.position;
                return Ok(events);
            }
            self.head.changed().await.map_err(|_| Error::Closed)?;
        }
    }
}
