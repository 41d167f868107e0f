//! Shards with owners: which process of several may write to which streams.
//!
//! An owner renews one row; its shards are its own until that row expires, by the database's clock. Taking a shard raises its epoch, and
//! [every append](crate::Fence) checks the epoch in the statement that writes. So a process that stood still, or was cut off, cannot write to what it
//! has lost, whatever it believes.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgPool, Row as _};
use uuid::Uuid;

use crate::log::Log;
use crate::{Error, Fence};

/// A replica: the name that its process runs under, and where others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name. A process takes over from an earlier one of the same name at once.
    pub name: String,
    /// Its address; empty if others cannot reach it.
    pub address: String,
}

/// What a process has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The shard, and its new epoch.
    pub fence: Fence,
    /// What its last owner left when it handed it over; `None` if it did not.
    pub handed: Option<Vec<u8>>,
    /// The newest position of the log before this.
    pub head: u64,
}

/// A shard as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: i64,
    /// The replica that it was made for.
    pub home: String,
    /// Who owns it now; `None` while nobody does.
    pub owner: Option<String>,
    /// How often it changed hands.
    pub epoch: i64,
    /// Whether the owner is this very process.
    pub mine: bool,
}

/// Who is there and who owns what, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Replicas that are there, by name; this one included. The second of each pair says whether it is about to go.
    pub members: Vec<(Member, bool)>,
    /// All shards.
    pub leases: Vec<Lease>,
}

impl Standing {
    /// A replica that is there.
    pub fn member(&self, name: &str) -> Option<&Member> {
        let mut members = self.members.iter().map(|(member, _)| member);
        members.find(|member| member.name == name)
    }

    /// Whether a replica is there to stay.
    pub fn stays(&self, name: &str) -> bool {
        self.members
            .iter()
            .any(|(member, leaving)| member.name == name && !leaving)
    }

    /// Who owns a shard.
    pub fn owner(&self, shard: i64) -> Option<&str> {
        let mut leases = self.leases.iter();
        leases.find(|lease| lease.shard == shard)?.owner.as_deref()
    }

    /// Whether there is something for this replica to take.
    pub fn is_free(&self, lease: &Lease, me: &str) -> bool {
        lease.owner.is_none() && (lease.home == me || !self.stays(&lease.home))
    }
}

/// The shards of a log, as one process deals with them. Dropping it gives nothing back.
pub struct Shards {
    pool: PgPool,
    log: Arc<Log>,
    me: Member,
    session: String,
    lease: Duration,
}

impl Shards {
    pub(crate) fn new(pool: PgPool, log: Arc<Log>, me: Member, lease: Duration) -> Self {
        Self {
            pool,
            log,
            me,
            session: Uuid::now_v7().to_string(),
            lease,
        }
    }

    /// This replica.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// Arrives: from now on an earlier process of this name owns nothing, and there is a shard whose home this is.
    pub async fn arrive(&self) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("SELECT 1 FROM ledger_shards WHERE shard = 0 FOR UPDATE")
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO ledger_owners (name, session, address, draining, expires) \
             VALUES ($1, $2, $3, FALSE, clock_timestamp() + make_interval(secs => $4)) \
             ON CONFLICT (name) DO UPDATE SET session = excluded.session, address = excluded.address, \
             draining = excluded.draining, expires = excluded.expires",
        )
        .bind(&self.me.name)
        .bind(&self.session)
        .bind(&self.me.address)
        .bind(self.lease.as_secs_f64())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO ledger_leases (shard, home) SELECT COALESCE(MAX(shard) + 1, 0), $1 FROM ledger_leases \
             ON CONFLICT (home) DO NOTHING",
        )
        .bind(&self.me.name)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Keeps what this process owns for another lease. False if another process runs under this name now: then this one owns nothing.
    pub async fn renew(&self, leaving: bool) -> Result<bool, Error> {
        let renewed = sqlx::query(
            "UPDATE ledger_owners SET draining = $3, expires = clock_timestamp() + make_interval(secs => $4) \
             WHERE name = $1 AND session = $2",
        )
        .bind(&self.me.name)
        .bind(&self.session)
        .bind(leaving)
        .bind(self.lease.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(renewed.rows_affected() > 0)
    }

    /// Who is there and who owns what.
    pub async fn look(&self) -> Result<Standing, Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut *tx)
            .await?;
        let members = sqlx::query(
            "SELECT name, address, draining FROM ledger_owners WHERE expires > clock_timestamp() ORDER BY name",
        )
        .fetch_all(&mut *tx)
        .await?;
        let leases = sqlx::query(
            "SELECT l.shard, l.home, o.name, l.epoch, l.owner = $1 AND l.session = $2 FROM ledger_leases l \
             LEFT JOIN ledger_owners o ON o.name = l.owner AND o.session = l.session AND o.expires > clock_timestamp() \
             ORDER BY l.shard",
        )
        .bind(&self.me.name)
        .bind(&self.session)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        let member = |row: &sqlx::postgres::PgRow| {
            let member = Member {
                name: row.try_get(0)?,
                address: row.try_get(1)?,
            };
            Ok((member, row.try_get(2)?))
        };
        let lease = |row: &sqlx::postgres::PgRow| {
            Ok(Lease {
                shard: row.try_get(0)?,
                home: row.try_get(1)?,
                owner: row.try_get(2)?,
                epoch: row.try_get(3)?,
                mine: row.try_get::<Option<bool>, _>(4)?.unwrap_or(false),
            })
        };
        Ok(Standing {
            members: members.iter().map(member).collect::<Result<_, Error>>()?,
            leases: leases.iter().map(lease).collect::<Result<_, Error>>()?,
        })
    }

    /// Takes every shard that nobody owns and whose home is this replica, or is not there.
    pub async fn take(&self) -> Result<Vec<Taken>, Error> {
        let rows = sqlx::query(
            "SELECT shard_taken, new_epoch, handed_over, log_head FROM ledger_take($1, $2)",
        )
        .bind(&self.me.name)
        .bind(&self.session)
        .fetch_all(&self.pool)
        .await?;
        let taken = rows.iter().map(|row| {
            let head = row.try_get::<i64, _>(3)? as u64;
            // Whoever takes a shard must see all that was written before.
            self.log.advance(head);
            Ok(Taken {
                fence: Fence {
                    shard: row.try_get(0)?,
                    epoch: row.try_get(1)?,
                },
                handed: row.try_get(2)?,
                head,
            })
        });
        taken.collect()
    }

    /// Gives a shard up, and leaves `handed` for whoever takes it. False if it was lost before.
    pub async fn release(&self, fence: Fence, handed: &[u8]) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("SELECT 1 FROM ledger_shards WHERE shard = 0 FOR UPDATE")
            .execute(&mut *tx)
            .await?;
        let released = sqlx::query(
            "UPDATE ledger_leases SET owner = NULL, session = NULL, handed = $3 WHERE shard = $1 AND epoch = $2 AND session = $4",
        )
        .bind(fence.shard)
        .bind(fence.epoch)
        .bind(handed)
        .bind(&self.session)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(released.rows_affected() > 0)
    }

    /// Goes, at once, with whatever this process still owns.
    pub async fn leave(&self) -> Result<(), Error> {
        sqlx::query("DELETE FROM ledger_owners WHERE name = $1 AND session = $2")
            .bind(&self.me.name)
            .bind(&self.session)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shards")
            .field("me", &self.me)
            .field("session", &self.session)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
