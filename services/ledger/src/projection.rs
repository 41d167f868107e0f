//! Projections: tables that follow the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chassis::Tasks;
use tokio::sync::{mpsc, oneshot};

use crate::log::Log;
use crate::sql::{Dialect, Tx};
use crate::store::{BoxFuture, Store};
use crate::{Error, Recorded, params};

mod follower;
mod progress;

use follower::Follower;
use progress::Progress;

/// Tables derived from the log. They are filled by [`apply`](Projection::apply) from the first event on, and can be rebuilt at any time.
pub trait Projection: Send + 'static {
    /// Unique within the database: 1 to 63 characters.
    fn name(&self) -> &'static str;

    /// Raise it when `schema` or `apply` change, or messages in the tables get fields: the tables are then rebuilt at the next start. Of
    /// replicas that share the tables the one with the highest version keeps them, and the others read what it has made: so leave what
    /// they read until they are gone.
    fn version(&self) -> u32;

    /// `CREATE TABLE` and `CREATE INDEX` statements; `BLOB`, `INTEGER` and `REAL` are translated for PostgreSQL.
    fn schema(&self, dialect: Dialect) -> &'static [&'static str];

    /// The tables, to drop them before a rebuild.
    fn tables(&self) -> &'static [&'static str];

    /// Applies events, in order. The position is stored in the same transaction, so that each event is applied exactly once. An error rolls everything
    /// back and is tried again.
    fn apply<'a>(
        &'a mut self,
        tx: &'a mut Tx,
        events: &'a [Recorded],
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// The tables are not what this projection last made of them: a transaction that it wrote in was rolled back, the tables were made again, or
    /// another replica went ahead. Whatever it keeps in memory about them is to be forgotten.
    fn rolled_back(&mut self) {}
}

/// The running projections.
pub(crate) struct Followers {
    store: Arc<dyn Store>,
    handles: BTreeMap<&'static str, Handle>,
}

struct Handle {
    progress: Arc<Progress>,
    rebuild: mpsc::Sender<oneshot::Sender<Result<(), Error>>>,
}

impl Followers {
    /// Creates or rebuilds the tables and starts a task for each projection.
    pub(crate) async fn start(
        store: &Arc<dyn Store>,
        log: &Arc<Log>,
        projections: Vec<Box<dyn Projection>>,
        tasks: &Tasks,
        abandoned: Duration,
    ) -> Result<Self, Error> {
        let mut handles = BTreeMap::new();
        for projection in projections {
            let name = projection.name();
            let (rebuild, requests) = mpsc::channel(1);
            let progress = Arc::<Progress>::default();
            let mut follower = Follower::new(
                Arc::clone(store),
                Arc::clone(log),
                projection,
                Arc::clone(&progress),
                abandoned,
            );
            follower.prepare().await?;
            let handle = Handle { progress, rebuild };
            if handles.insert(name, handle).is_some() {
                return Err(Error::Config(format!("two projections are named {name}")));
            }
            tasks.spawn_essential("ledger-projection", follower.run(requests, tasks.token()));
        }
        Ok(Self {
            store: Arc::clone(store),
            handles,
        })
    }

    fn find(&self, name: &str) -> Result<&Handle, Error> {
        self.handles
            .get(name)
            .ok_or_else(|| Error::UnknownProjection(name.to_owned()))
    }

    pub(crate) fn position(&self, name: &str) -> Result<u64, Error> {
        Ok(self.find(name)?.progress.get())
    }

    pub(crate) async fn wait(
        &self,
        name: &str,
        position: u64,
        within: Duration,
    ) -> Result<(), Error> {
        let progress = &self.find(name)?.progress;
        let reached = async {
            if !self.store.exclusive() {
                self.look(name, progress).await?;
            }
            Ok(progress.reached(position).await)
        };
        let waited = tokio::time::timeout(within, reached).await;
        match waited.map_or_else(|_| Err(None), |reached| reached.map_err(Some)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Closed),
            Err(Some(error)) => Err(error),
            Err(None) => Err(Error::Timeout(format!(
                "position {position} of projection {name}"
            ))),
        }
    }

    /// Others may have made the tables again since this process looked, and a crash of the database may have taken their end away.
    async fn look(&self, name: &str, progress: &Progress) -> Result<(), Error> {
        let known = progress.get();
        let sql = "SELECT position FROM ledger_projections WHERE name = $1";
        let row = self
            .store
            .reader()
            .fetch_optional(sql, params![name])
            .await?;
        let stored: u64 = row.map_or(Ok(0), |row| row.get(0))?;
        if stored < known {
            progress.set(stored);
        }
        Ok(())
    }

    pub(crate) async fn rebuild(&self, name: &str) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.find(name)?
            .rebuild
            .send(done)
            .await
            .map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }
}
