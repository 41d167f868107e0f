//! A store under test: opened, closed and opened again.

use std::time::Duration;

use chassis::{Env, Tasks};
use ledger::{CommitterOptions, Ledger, Projection, SimulatedDisk, StoreConfig};

use crate::accounts::{Accounts, Balances};

pub struct Bench {
    config: StoreConfig,
    pub disk: Option<SimulatedDisk>,
    _folder: Option<tempfile::TempDir>,
}

pub struct Open {
    pub ledger: Ledger<Accounts>,
    tasks: Tasks,
}

impl Bench {
    pub fn simulated() -> Self {
        let disk = SimulatedDisk::new();
        Self {
            config: StoreConfig::simulated(&disk),
            disk: Some(disk),
            _folder: None,
        }
    }

    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            config: StoreConfig::sqlite(folder.path(), "test"),
            disk: None,
            _folder: Some(folder),
        }
    }

    /// `None` when PostgreSQL is not on this machine.
    pub async fn postgres() -> Option<Self> {
        let url = ledger::testing::postgres().await?.database().await;
        Some(Self {
            config: StoreConfig::postgres(url, "test"),
            disk: None,
            _folder: None,
        })
    }

    pub async fn open(&self) -> Open {
        self.open_with(CommitterOptions::default(), 1).await
    }

    pub async fn open_with(&self, options: CommitterOptions, version: u32) -> Open {
        let tasks = Tasks::new();
        let projections: Vec<Box<dyn Projection>> = vec![Box::new(Balances { version })];
        let ledger = Ledger::open(
            self.config.clone(),
            Accounts,
            (),
            projections,
            &Env::system(),
            &tasks,
            options,
        )
        .await
        .expect("the ledger opens");
        Open { ledger, tasks }
    }
}

impl Open {
    pub async fn close(self) {
        self.tasks
            .shutdown(Duration::from_secs(10))
            .await
            .expect("all tasks end");
        self.ledger.close().await;
    }

    pub async fn balance(&self, account: &str, position: u64) -> Option<i64> {
        self.ledger
            .wait_for_projection("balances", position, Duration::from_secs(20))
            .await
            .expect("the projection follows");
        let rows = self
            .ledger
            .reader()
            .fetch_all(
                "SELECT balance FROM balances WHERE account = $1",
                ledger::params![account],
            )
            .await
            .expect("a query");
        rows.first().map(|row| row.get(0).expect("a number"))
    }
}
