//! What may happen to a system, one thing after the other.

use std::fmt;
use std::time::Duration;

use ledger::testing::TemporaryPostgres;
use rand::RngExt as _;
use rand::rngs::StdRng;
use sagamesh_tests::System;
use sagamesh_tests::campaign::Blow;
use sagamesh_tests::system::signal;

use crate::disk;
use crate::relay::Relay;

/// What the services keep their data in.
pub(crate) enum Store {
    /// A file for each.
    Sqlite,
    /// One server, reached through a relay whose connections can be cut; with replicas of everything.
    Postgres(&'static TemporaryPostgres, Relay),
}

impl Store {
    pub(crate) async fn postgres(server: &'static TemporaryPostgres) -> anyhow::Result<Self> {
        let relay = Relay::start(server.address()).await?;
        Ok(Self::Postgres(server, relay))
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres(..) => "PostgreSQL with replicas",
        }
    }

    /// Of `sagamesh up`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        match self {
            Self::Sqlite => vec!["--replicas".into(), "gateway=2".into()],
            Self::Postgres(_, relay) => vec![
                "--postgres".into(),
                format!("postgres://postgres@{}/postgres", relay.address()),
                "--database-prefix".into(),
                "chaos".into(),
                "--replicas".into(),
                "coordinator=3,gateway=2,orders=2,inventory=2,payments=2,notifications=2".into(),
            ],
        }
    }

    /// The processes of services, each with the name of its pod; one without others has a number in that alone.
    fn services(&self) -> Vec<(String, String)> {
        let replicas = match self {
            Self::Sqlite => [1, 1, 1, 1, 1, 2],
            Self::Postgres(..) => [3, 2, 2, 2, 2, 2],
        };
        let names = [
            "coordinator",
            "orders",
            "inventory",
            "payments",
            "notifications",
            "gateway",
        ];
        let all = names.iter().zip(replicas);
        all.flat_map(|(name, count)| {
            (0..count).map(move |number| {
                let pod = format!("{name}-{number}");
                let process = if count == 1 {
                    (*name).to_owned()
                } else {
                    pod.clone()
                };
                (process, pod)
            })
        })
        .collect()
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Something is done to a process.
    Process(Blow, String),
    /// A process stands still for less than its leases.
    Pause(String, Duration),
    /// The database server crashes, and is back after a while.
    Database(Duration),
    /// Connections to the database break, and new ones are refused for a while.
    Cut(Duration),
    /// The disk is full for a while.
    Disk(Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(Blow::Kill, name) => write!(f, "{name} is killed"),
            Self::Process(Blow::Roll, name) => write!(f, "{name} is rolled"),
            Self::Process(Blow::Freeze, name) => write!(f, "{name} stands still beyond its leases"),
            Self::Pause(name, time) => write!(f, "{name} stands still for {time:?}"),
            Self::Database(time) => write!(f, "the database crashes, away for {time:?}"),
            Self::Cut(time) => write!(f, "connections to the database are cut for {time:?}"),
            Self::Disk(time) => write!(f, "the disk is full for {time:?}"),
        }
    }
}

/// Chooses and does.
pub(crate) struct Faults<'a> {
    store: &'a Store,
    services: Vec<(String, String)>,
    random: StdRng,
    /// How many were done.
    pub(crate) struck: usize,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(store: &'a Store, random: StdRng) -> Self {
        Self {
            services: store.services(),
            store,
            random,
            struck: 0,
        }
    }

    pub(crate) fn next(&mut self) -> Fault {
        let at = self.random.random_range(0..self.services.len());
        let (service, pod) = self.services[at].clone();
        let while_away = Duration::from_millis(self.random.random_range(200..3_000));
        let postgres = matches!(self.store, Store::Postgres(..));
        loop {
            return match self.random.random_range(0..16) {
                0..=4 => Fault::Process(Blow::Kill, service),
                5 | 6 => Fault::Process(Blow::Kill, format!("{pod}-sidecar")),
                7 => Fault::Process(Blow::Kill, "meshd".into()),
                8 | 9 => Fault::Process(Blow::Roll, service),
                10 => Fault::Process(Blow::Freeze, service),
                11 | 12 => Fault::Pause(service, while_away),
                13 if postgres => Fault::Database(while_away),
                14 if postgres => Fault::Cut(while_away),
                15 if disk::is_small() => Fault::Disk(while_away),
                _ => continue,
            };
        }
    }

    pub(crate) async fn strike(&mut self, fault: &Fault, system: &System) -> anyhow::Result<()> {
        self.struck += 1;
        match (fault, self.store) {
            (Fault::Process(blow, name), _) => blow.strike(system, name).await,
            (Fault::Pause(name, time), _) => {
                if let Some(pid) = system.pid(name)? {
                    signal("-STOP", pid).await?;
                    tokio::time::sleep(*time).await;
                    signal("-CONT", pid).await?;
                }
                Ok(())
            }
            (Fault::Database(time), Store::Postgres(server, _)) => Ok(server.crash(*time).await?),
            (Fault::Cut(time), Store::Postgres(_, relay)) => {
                relay.cut(*time).await;
                Ok(())
            }
            (Fault::Disk(time), _) => disk::fill(system.folder(), *time).await,
            (Fault::Database(_) | Fault::Cut(_), Store::Sqlite) => Ok(()),
        }
    }
}
