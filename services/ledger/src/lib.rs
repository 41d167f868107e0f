//! The event store of sagamesh.
//!
//! A service describes how it changes as a [`Decider`] and opens a [`Ledger`] with it. The ledger takes many commands at once, decides each on
//! cached state, writes all their events in one transaction, and only then answers. Reads come from [`Projection`]s: tables in the same database
//! that follow the log. Other services follow the log through the [feed](Ledger::feed).
//!
//! The log is kept in SQLite, in PostgreSQL, or on a simulated disk for tests, which several processes may share like a PostgreSQL.

mod backup;
mod committer;
mod config;
mod decider;
mod error;
mod feed;
pub mod inbox;
mod ledger;
mod log;
mod projection;
mod recorded;
mod restore;
mod shards;
pub mod sql;
mod store;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;

pub use backup::{Copied, backup, databases, restore};
pub use committer::{CommitterOptions, Executed, Outcome};
pub use config::StoreConfig;
pub use decider::{Committed, Cursor, Decider, Decision, Fence, Given, Observer, View};
pub use error::{Error, ExecuteError, StorageError};
pub use feed::{Consumer, FeedService, Handler, Received, Subscription};
pub use ledger::{Answered, Ledger};
pub use projection::Projection;
pub use recorded::Recorded;
pub use shards::{Lease, Member, Shards, Standing, Taken};
pub use sql::Value;
pub use store::simulated::{DiskScript, Fate, Fault, Mistake, SimulatedDisk};
pub use stream::StreamId;

/// A boxed future, as [`Projection::apply`] and [`Handler`] return it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
