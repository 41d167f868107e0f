//! Where a ledger is kept.

use std::path::PathBuf;

use crate::store::simulated::SimulatedDisk;

/// Where the service keeps its data.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StoreConfig {
    /// Folder of the SQLite file; made if it does not exist.
    #[arg(long, env = "SAGAMESH_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// `postgres://user@host:port/database` to use PostgreSQL. Empty: SQLite in the data folder.
    #[arg(
        long,
        env = "SAGAMESH_DATABASE_URL",
        default_value = "",
        hide_env_values = true
    )]
    pub database_url: String,
    /// The name of the SQLite file without `.db`; the service's name.
    #[arg(skip)]
    pub name: String,
    /// A simulated disk, for tests.
    #[arg(skip)]
    pub simulated: Option<SimulatedDisk>,
}

impl StoreConfig {
    /// A SQLite file `<data_dir>/<name>.db`.
    pub fn sqlite(data_dir: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            name: name.into(),
            ..Self::default()
        }
    }

    /// A PostgreSQL database.
    pub fn postgres(url: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            database_url: url.into(),
            name: name.into(),
            ..Self::default()
        }
    }

    /// A simulated disk or database.
    pub fn simulated(disk: &SimulatedDisk) -> Self {
        Self {
            simulated: Some(disk.clone()),
            ..Self::default()
        }
    }

    /// The same settings for a service of this name; a service calls it with its own name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether several processes may have the log open at once.
    pub fn is_shared(&self) -> bool {
        match &self.simulated {
            Some(disk) => disk.is_database(),
            None => !self.database_url.is_empty(),
        }
    }

    /// The SQLite file.
    pub fn sqlite_path(&self) -> PathBuf {
        let name = if self.name.is_empty() {
            "ledger"
        } else {
            &self.name
        };
        self.data_dir.join(format!("{name}.db"))
    }
}
