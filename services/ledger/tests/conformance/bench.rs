//! A store under test: opened, closed, broken and opened again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chassis::{Env, Tasks};
use ledger::{
    Committed, CommitterOptions, Ledger, Observer, Projection, SimulatedDisk, StoreConfig, params,
};

use crate::accounts::{Account, Accounts, Balances, Event};
use crate::proxy::Proxy;

pub(crate) enum Bench {
    Simulated(SimulatedDisk),
    Sqlite(tempfile::TempDir),
    /// The URL goes through the proxy; `direct` does not.
    Postgres {
        proxy: Proxy,
        direct: StoreConfig,
    },
}

/// What an observer saw: position, stream, version, event, state.
pub(crate) type Seen = Arc<Mutex<Vec<(u64, String, u64, Event, Account)>>>;

pub(crate) struct Watcher {
    seen: Seen,
    behind: Arc<AtomicUsize>,
}

impl Observer<Accounts> for Watcher {
    fn behind(&mut self) {
        self.behind.fetch_add(1, Ordering::Relaxed);
    }

    fn committed(&mut self, commits: &[Committed<'_, Accounts>]) {
        let mut seen = self.seen.lock().expect("not poisoned");
        seen.extend(commits.iter().map(|one| {
            (
                one.position,
                one.stream.to_string(),
                one.version,
                one.event.clone(),
                one.state.clone(),
            )
        }));
    }
}

pub(crate) struct Open {
    pub(crate) ledger: Ledger<Accounts>,
    pub(crate) seen: Seen,
    /// How often the observer was told that it is behind.
    pub(crate) behind: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Bench {
    pub(crate) fn simulated() -> Self {
        Self::Simulated(SimulatedDisk::new())
    }

    /// A simulated database, which several ledgers may have open at once.
    pub(crate) fn database() -> Self {
        Self::Simulated(SimulatedDisk::database())
    }

    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("a temporary folder"))
    }

    /// `None` when PostgreSQL is not on this machine.
    pub(crate) async fn postgres() -> Option<Self> {
        let url = ledger::testing::postgres().await?.database().await;
        let proxy = Proxy::start(&url).await;
        Some(Self::Postgres {
            proxy,
            direct: StoreConfig::postgres(url, "test"),
        })
    }

    pub(crate) fn config(&self) -> StoreConfig {
        match self {
            Self::Simulated(disk) => StoreConfig::simulated(disk),
            Self::Sqlite(folder) => StoreConfig::sqlite(folder.path(), "test"),
            Self::Postgres { proxy, .. } => StoreConfig::postgres(proxy.url(), "test"),
        }
    }

    pub(crate) async fn open(&self) -> Open {
        self.open_with(CommitterOptions::default(), 1).await
    }

    pub(crate) async fn open_with(&self, options: CommitterOptions, version: u32) -> Open {
        open(self.config(), options, version)
            .await
            .expect("the ledger opens")
    }

    /// The process dies, with whatever it was doing, and a new one opens what is on disk.
    pub(crate) async fn crash(&self, open: Open) -> (Option<tempfile::TempDir>, Open) {
        match self {
            Self::Simulated(disk) => {
                disk.crash();
                open.stop().await;
                (None, self.open().await)
            }
            Self::Sqlite(folder) => {
                // What is in the files now is what a process that was killed now leaves behind.
                let copy = tempfile::tempdir().expect("a temporary folder");
                for name in ["test.db", "test.db-wal"] {
                    let from: PathBuf = folder.path().join(name);
                    std::fs::copy(from, copy.path().join(name)).expect("copied");
                }
                open.stop().await;
                let config = StoreConfig::sqlite(copy.path(), "test");
                let opened = crate::bench::open(config, CommitterOptions::default(), 1)
                    .await
                    .expect("the copy opens");
                (Some(copy), opened)
            }
            Self::Postgres { proxy, direct } => {
                proxy.cut();
                open.stop().await;
                let opened =
                    crate::bench::open(direct.clone(), CommitterOptions::default(), 1).await;
                (None, opened.expect("the database opens"))
            }
        }
    }

    /// From now on commits fail without having taken.
    pub(crate) async fn break_commits(&self, open: &Open) {
        match self {
            Self::Simulated(disk) => disk.fail_before_commit(),
            Self::Sqlite(_) => {
                script(open, "CREATE TRIGGER broken BEFORE INSERT ON ledger_events BEGIN SELECT RAISE(ABORT, 'broken'); END").await;
            }
            Self::Postgres { .. } => {
                script(open, "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
                    CREATE TRIGGER broken BEFORE INSERT ON ledger_events FOR EACH ROW EXECUTE FUNCTION broken()").await;
            }
        }
    }

    pub(crate) async fn mend_commits(&self, open: &Open) {
        match self {
            Self::Simulated(_) => {}
            Self::Sqlite(_) => script(open, "DROP TRIGGER broken").await,
            Self::Postgres { .. } => script(open, "DROP FUNCTION broken CASCADE").await,
        }
    }

    pub(crate) async fn fill_disk(&self, open: &Open) {
        match self {
            Self::Simulated(disk) => disk.set_full(true),
            Self::Sqlite(_) => script(open, "PRAGMA max_page_count = 1").await,
            Self::Postgres { .. } => {
                script(open, "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$;
                    CREATE TRIGGER broken BEFORE INSERT ON ledger_events FOR EACH ROW EXECUTE FUNCTION broken()").await;
            }
        }
    }

    pub(crate) async fn make_room(&self, open: &Open) {
        match self {
            Self::Simulated(disk) => disk.set_full(false),
            Self::Sqlite(_) => script(open, "PRAGMA max_page_count = 1073741823").await,
            Self::Postgres { .. } => script(open, "DROP FUNCTION broken CASCADE").await,
        }
    }

    /// The next commit takes, and its answer is lost.
    pub(crate) fn lose_next_answer(&self) {
        match self {
            Self::Simulated(disk) => disk.fail_after_commit(),
            Self::Sqlite(_) => unreachable!("SQLite answers in the same process"),
            Self::Postgres { proxy, .. } => proxy.cut_at_next_answer(),
        }
    }

    /// The next commit does not reach the store.
    pub(crate) fn lose_next_question(&self) {
        match self {
            Self::Simulated(disk) => disk.fail_before_commit(),
            Self::Sqlite(_) => unreachable!("SQLite is asked in the same process"),
            Self::Postgres { proxy, .. } => proxy.cut_at_next_question(),
        }
    }
}

pub(crate) async fn script(open: &Open, sql: &'static str) {
    open.ledger
        .transact(move |tx| Box::pin(tx.script(sql)))
        .await
        .expect("the script runs");
}

pub(crate) async fn open(
    config: StoreConfig,
    options: CommitterOptions,
    version: u32,
) -> Result<Open, ledger::Error> {
    let tasks = Tasks::new();
    let seen = Seen::default();
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(Balances { version })];
    let behind = Arc::default();
    let watcher = Watcher {
        seen: Arc::clone(&seen),
        behind: Arc::clone(&behind),
    };
    let ledger = Ledger::open(
        config,
        Accounts::default(),
        watcher,
        projections,
        &Env::system(),
        &tasks,
        options,
    )
    .await?;
    Ok(Open {
        ledger,
        seen,
        behind,
        tasks,
    })
}

impl Open {
    pub(crate) async fn close(self) {
        self.tasks
            .shutdown(Duration::from_secs(10))
            .await
            .expect("all tasks end");
        self.ledger.close().await;
    }

    /// Ends the tasks, as far as they still can.
    async fn stop(self) {
        self.tasks
            .shutdown(Duration::from_secs(10))
            .await
            .expect("all tasks end");
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    pub(crate) async fn balance(&self, account: &str, position: u64) -> Option<i64> {
        let within = Duration::from_secs(20);
        self.ledger
            .wait_for_projection("balances", position, within)
            .await
            .expect("the projection follows");
        let sql = "SELECT balance FROM balances WHERE account = $1";
        let row = self
            .ledger
            .reader()
            .fetch_optional(sql, params![account])
            .await
            .expect("a query");
        row.map(|row| row.get(0).expect("a number"))
    }
}
