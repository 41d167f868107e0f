//! A log that is for one process: a lock that lasts as long as a connection.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::Mutex;

use crate::Error;

/// How long a new process waits for an old one that is just ending.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connection is looked at on every so many calls of [`Lease::keep`].
const LOOK_EVERY: u32 = 20;

pub(super) struct Lease {
    options: PgConnectOptions,
    name: String,
    schema: String,
    connection: Mutex<Option<PgConnection>>,
    lost: AtomicBool,
    calls: AtomicU32,
}

impl Lease {
    /// Takes the lock, or says who is in the way.
    pub(super) async fn take(
        options: PgConnectOptions,
        name: &str,
        schema: &str,
    ) -> Result<Self, Error> {
        let lease = Self {
            options,
            name: name.to_owned(),
            schema: schema.to_owned(),
            connection: Mutex::new(None),
            lost: AtomicBool::new(false),
            calls: AtomicU32::new(0),
        };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(connection) = lease.attempt().await? {
                *lease.connection.lock().await = Some(connection);
                return Ok(lease);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::InUse {
                    database: lease.name,
                });
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn attempt(&self) -> Result<Option<PgConnection>, Error> {
        let mut connection = self.options.connect().await?;
        let taken: bool = sqlx::query_scalar(
            "SELECT pg_try_advisory_lock(hashtext('sagamesh-exclusive'), hashtext($1))",
        )
        .bind(&self.schema)
        .fetch_one(&mut connection)
        .await?;
        Ok(taken.then_some(connection))
    }

    /// Whether another process has the lock now.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Makes sure of the lock from time to time: the database drops it with the connection.
    pub(super) async fn keep(&self) -> Result<(), Error> {
        if !self
            .calls
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(LOOK_EVERY)
        {
            return Ok(());
        }
        let mut held = self.connection.lock().await;
        if let Some(connection) = &mut *held
            && connection.ping().await.is_ok()
        {
            return Ok(());
        }
        *held = None;
        *held = self.attempt().await?;
        if held.is_none() {
            // What it wrote is not known here: this process must not go on from its memory.
            self.lost.store(true, Ordering::Relaxed);
            return Err(Error::InUse {
                database: self.name.clone(),
            });
        }
        Ok(())
    }

    pub(super) async fn release(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            // The lock goes with the connection either way.
            let _ = connection.close().await;
        }
    }
}
