//! How a process reaches a disk: at once if it is its own; over a network, and after others, if it is a database.

use std::sync::MutexGuard;
use std::time::Duration;

use super::disk::Disk;
use super::{Mistake, SimulatedDisk};
use crate::Error;

/// How long an answer to a question is waited for. What writes is waited for as long as it takes.
pub(super) const PATIENCE: Option<Duration> = Some(Duration::from_secs(2));

/// A statement that waits, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    statement: &'static str,
    what: For,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Sync,
    Turn,
}

impl SimulatedDisk {
    /// Whether a statement (as PostgreSQL knows it: `ledger_append`, `ledger_take`, `UPDATE ledger_owners`, ...) is written, and waits to be synced.
    pub fn waits_for_sync(&self, statement: &str) -> bool {
        self.is_waiting(statement, For::Sync)
    }

    /// Whether a statement waits for another one that writes.
    pub fn waits_for_turn(&self, statement: &str) -> bool {
        self.is_waiting(statement, For::Turn)
    }

    fn is_waiting(&self, statement: &str, what: For) -> bool {
        let disk = self.lock();
        let mut waiting = disk.waiting.iter();
        waiting.any(|one| one.statement == statement && one.what == what)
    }

    /// Brings a request to the disk. Returns in which life of the disk that is.
    pub(super) async fn bring(&self, patience: Option<Duration>) -> Result<u64, Error> {
        self.travel(false, patience).await?;
        Ok(self.lock().life)
    }

    /// Brings the answer back.
    pub(super) async fn answer(&self, patience: Option<Duration>) -> Result<(), Error> {
        self.travel(true, patience).await
    }

    /// Asks something.
    pub(super) async fn ask<T>(&self, question: impl FnOnce(&mut Disk) -> T) -> Result<T, Error> {
        let life = self.bring(PATIENCE).await?;
        let answer = question(&mut *self.at(life)?);
        self.answer(PATIENCE).await?;
        Ok(answer)
    }

    /// Whether it can be reached.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        self.ask(|_| ()).await
    }

    async fn travel(&self, back: bool, patience: Option<Duration>) -> Result<(), Error> {
        let Some(script) = self.script.as_ref().filter(|_| self.is_database()) else {
            return Ok(());
        };
        let travelling = script.travel(back);
        let arrived = match patience {
            None => travelling.await,
            Some(most) => tokio::time::timeout(most, travelling)
                .await
                .unwrap_or(false),
        };
        match arrived {
            true => Ok(()),
            false => Err(Error::Simulated("the database cannot be reached")),
        }
    }

    /// The disk, unless it has crashed since that life.
    pub(super) fn at(&self, life: u64) -> Result<MutexGuard<'_, Disk>, Error> {
        let disk = self.lock();
        if disk.life == life {
            Ok(disk)
        } else {
            Err(Error::Simulated("the machine has crashed"))
        }
    }

    /// Waits until nobody else writes, in the order of arrival.
    pub(super) async fn turn(&self, statement: &'static str) -> tokio::sync::MutexGuard<'_, ()> {
        let _waits = Waits::new(self, statement, For::Turn);
        self.shared.turn.lock().await
    }

    /// Waits while syncs are held: what was written meanwhile is neither visible nor durable.
    pub(super) async fn synced(&self, statement: &'static str) {
        let _waits = Waits::new(self, statement, For::Sync);
        loop {
            // Asked first: what is released in between is not missed.
            let released = self.shared.synced.notified();
            if self.lock().syncing {
                return;
            }
            released.await;
        }
    }

    /// Whether it looks at the leases under which batches were decided, as a database must. A disk of one process knows of none.
    pub(super) fn checks_leases(&self) -> bool {
        self.is_database() && self.mistake() != Some(Mistake::ForgetsLeases)
    }

    /// What it does wrong.
    pub(super) fn mistake(&self) -> Option<Mistake> {
        self.script.as_ref()?.mistake()
    }
}

/// Notes that a statement waits, for as long as it lives.
struct Waits<'a>(&'a SimulatedDisk, Waiting);

impl<'a> Waits<'a> {
    fn new(disk: &'a SimulatedDisk, statement: &'static str, what: For) -> Self {
        let waiting = Waiting { statement, what };
        disk.lock().waiting.push(waiting);
        Self(disk, waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut disk = self.0.lock();
        if let Some(at) = disk.waiting.iter().position(|one| *one == self.1) {
            disk.waiting.remove(at);
        }
    }
}
