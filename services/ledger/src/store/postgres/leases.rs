//! Owners and leases in PostgreSQL: the tables `ledger_owners` and `ledger_leases`.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::{Connections, Held};
use crate::shards::{LeaseTable, Owner};
use crate::store::BoxFuture;
use crate::{Error, Fence, Lease, Member, Standing, Taken};

const ARRIVE: &str = "INSERT INTO ledger_owners (name, session, address, draining, expires) \
    VALUES ($1, $2, $3, FALSE, clock_timestamp() + make_interval(secs => $4)) \
    ON CONFLICT (name) DO UPDATE SET session = excluded.session, address = excluded.address, \
    draining = excluded.draining, expires = excluded.expires";

const MAKE_HOME: &str = "INSERT INTO ledger_leases (shard, home) SELECT COALESCE(MAX(shard) + 1, 0), $1 FROM ledger_leases \
    ON CONFLICT (home) DO NOTHING";

const RENEW: &str = "UPDATE ledger_owners SET draining = $3, expires = clock_timestamp() + make_interval(secs => $4) \
    WHERE name = $1 AND session = $2";

const MEMBERS: &str = "SELECT name, address, draining FROM ledger_owners WHERE expires > clock_timestamp() ORDER BY name";

const LEASES: &str = "SELECT l.shard, l.home, o.name, l.epoch, l.owner = $1 AND l.session = $2 FROM ledger_leases l \
    LEFT JOIN ledger_owners o ON o.name = l.owner AND o.session = l.session AND o.expires > clock_timestamp() \
    ORDER BY l.shard";

const TAKE: &str = "SELECT shard_taken, new_epoch, handed_over, log_head FROM ledger_take($1, $2)";

const RELEASE: &str = "UPDATE ledger_leases SET owner = NULL, session = NULL, handed = $3 WHERE shard = $1 AND epoch = $2 AND session = $4";

/// Leases, on connections of their own: they are renewed whatever else is going on.
#[derive(Clone)]
pub(crate) struct PostgresLeases(pub(super) Connections);

impl PostgresLeases {
    /// Before a lease is over there must be time for another try.
    fn in_time(&self, me: &Owner) -> Connections {
        self.0.within(me.lease / 2)
    }
}

/// From now on nobody writes, and no lease changes, before this transaction ends.
async fn lock(tx: &mut Held) -> Result<(), Error> {
    sqlx::query("SELECT 1 FROM ledger_shards WHERE shard = 0 FOR UPDATE")
        .execute(tx)
        .await?;
    Ok(())
}

fn member(row: &PgRow) -> Result<(Member, bool), Error> {
    let member = Member {
        name: row.try_get(0)?,
        address: row.try_get(1)?,
    };
    Ok((member, row.try_get(2)?))
}

fn lease(row: &PgRow) -> Result<Lease, Error> {
    Ok(Lease {
        shard: row.try_get(0)?,
        home: row.try_get(1)?,
        owner: row.try_get(2)?,
        epoch: row.try_get(3)?,
        mine: row.try_get::<Option<bool>, _>(4)?.unwrap_or(false),
    })
}

fn taken(row: &PgRow) -> Result<Taken, Error> {
    Ok(Taken {
        fence: Fence {
            shard: row.try_get(0)?,
            epoch: row.try_get(1)?,
        },
        handed: row.try_get(2)?,
        head: row.try_get::<i64, _>(3)? as u64,
    })
}

impl LeaseTable for PostgresLeases {
    fn arrive<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut tx = self.0.begin().await?;
            lock(&mut tx).await?;
            sqlx::query(ARRIVE)
                .bind(&me.member.name)
                .bind(&me.session)
                .bind(&me.member.address)
                .bind(me.lease.as_secs_f64())
                .execute(&mut tx)
                .await?;
            sqlx::query(MAKE_HOME)
                .bind(&me.member.name)
                .execute(&mut tx)
                .await?;
            Ok(tx.commit().await?)
        })
    }

    fn renew<'a>(&'a self, me: &'a Owner, leaving: bool) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let renewed = sqlx::query(RENEW)
                .bind(&me.member.name)
                .bind(&me.session)
                .bind(leaving)
                .bind(me.lease.as_secs_f64())
                .execute(&mut self.in_time(me).acquire().await?)
                .await?;
            Ok(renewed.rows_affected() > 0)
        })
    }

    fn look<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<Standing, Error>> {
        Box::pin(async move {
            let mut tx = self.in_time(me).begin().await?;
            sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .execute(&mut tx)
                .await?;
            let members = sqlx::query(MEMBERS).fetch_all(&mut tx).await?;
            let leases = sqlx::query(LEASES)
                .bind(&me.member.name)
                .bind(&me.session)
                .fetch_all(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(Standing {
                members: members.iter().map(member).collect::<Result<_, _>>()?,
                leases: leases.iter().map(lease).collect::<Result<_, _>>()?,
            })
        })
    }

    fn take<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<Vec<Taken>, Error>> {
        Box::pin(async move {
            let rows = sqlx::query(TAKE)
                .bind(&me.member.name)
                .bind(&me.session)
                .fetch_all(&mut self.0.acquire().await?)
                .await?;
            rows.iter().map(taken).collect()
        })
    }

    fn release<'a>(
        &'a self,
        me: &'a Owner,
        fence: Fence,
        handed: &'a [u8],
    ) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let mut tx = self.0.begin().await?;
            lock(&mut tx).await?;
            let released = sqlx::query(RELEASE)
                .bind(fence.shard)
                .bind(fence.epoch)
                .bind(handed)
                .bind(&me.session)
                .execute(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(released.rows_affected() > 0)
        })
    }

    fn leave<'a>(&'a self, me: &'a Owner) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            sqlx::query("DELETE FROM ledger_owners WHERE name = $1 AND session = $2")
                .bind(&me.member.name)
                .bind(&me.session)
                .execute(&mut self.0.acquire().await?)
                .await?;
            Ok(())
        })
    }
}
