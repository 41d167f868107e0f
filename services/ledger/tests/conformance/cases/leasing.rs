//! Leases, and the races around them, forced: one side is held at a pause point while the other one runs into it.

use std::time::Duration;

use ledger::{ExecuteError, Fence, Lease, Member, Shards, SimulatedDisk};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::accounts::{Command, Refusal, account};
use crate::bench::{Bench, Open, script};

/// Never over by itself in a test.
const LONG: Duration = Duration::from_secs(3600);

/// A replica of this name on a ledger.
async fn replica(open: &Open, name: &str) -> Shards {
    let me = Member {
        name: name.to_owned(),
        address: format!("http://{name}"),
    };
    let shards = open.ledger.shards(me, LONG).expect("others may write");
    shards.arrive().await.expect("arrived");
    shards
}

/// Takes exactly one shard.
async fn take(shards: &Shards) -> Fence {
    let taken = shards.take().await.expect("taken");
    assert_eq!(taken.len(), 1, "{taken:?}");
    taken[0].fence
}

/// The test's own hand in the database.
enum Hand {
    Simulated(SimulatedDisk),
    Postgres(PgConnection),
}

/// What a statement waits for.
#[derive(Clone, Copy)]
enum For {
    /// [`Hand::go_on`]: it is under way, and not committed.
    GoingOn,
    /// Another statement that is under way.
    AnotherOne,
}

impl Hand {
    async fn of(bench: &Bench) -> Self {
        let direct = match bench {
            Bench::Simulated(disk) => return Self::Simulated(disk.clone()),
            Bench::Sqlite(_) => unreachable!("nobody shares it"),
            Bench::Postgres { direct, .. } => direct,
        };
        let mut connection = PgConnection::connect(&direct.database_url)
            .await
            .expect("PostgreSQL answers");
        sqlx::raw_sql("SET search_path TO test")
            .execute(&mut connection)
            .await
            .expect("set");
        Self::Postgres(connection)
    }

    async fn run(&mut self, sql: String) {
        let Self::Postgres(connection) = self else {
            unreachable!("only PostgreSQL runs scripts");
        };
        let ran = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
        ran.expect("the script runs");
    }

    /// From now on whoever is about to write to a table (or on a simulated database, to any) waits, until [`Hand::go_on`].
    async fn pause(&mut self, when: &str) {
        if let Self::Simulated(disk) = self {
            return disk.hold_syncs();
        }
        self.run(format!(
            "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$;
             CREATE TRIGGER pause BEFORE {when} FOR EACH ROW EXECUTE FUNCTION pause();
             SELECT pg_advisory_lock(1)"
        ))
        .await;
    }

    async fn go_on(&mut self) {
        if let Self::Simulated(disk) = self {
            return disk.release_syncs();
        }
        self.run("SELECT pg_advisory_unlock(1)".into()).await;
    }

    /// Whether a statement that contains this text waits.
    async fn is_waiting(&mut self, statement: &str, what: For) -> bool {
        let connection = match (&mut *self, what) {
            (Self::Simulated(disk), For::GoingOn) => return disk.waits_for_sync(statement),
            (Self::Simulated(disk), For::AnotherOne) => return disk.waits_for_turn(statement),
            (Self::Postgres(connection), _) => connection,
        };
        let lock = match what {
            For::GoingOn => "advisory",
            For::AnotherOne => "transactionid",
        };
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND pid <> pg_backend_pid() AND query LIKE $1 AND wait_event = $2";
        let count: i64 = sqlx::query_scalar(sql)
            .bind(format!("%{statement}%"))
            .bind(lock)
            .fetch_one(connection)
            .await
            .expect("counted");
        count > 0
    }

    async fn until_waiting(&mut self, statement: &str, what: For) {
        let waiting = async {
            while !self.is_waiting(statement, what).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("{statement} does not wait"));
    }

    /// What a process that stood still for too long finds: its lease has run out.
    async fn expire(&mut self, name: &str) {
        if let Self::Simulated(disk) = self {
            return disk.expire(name);
        }
        self.run(format!(
            "UPDATE ledger_owners SET expires = clock_timestamp() - interval '1 second' WHERE name = '{name}'"
        ))
        .await;
    }

    /// How many events others can see.
    async fn visible(&mut self) -> usize {
        let connection = match self {
            Self::Simulated(disk) => return disk.durable_events(),
            Self::Postgres(connection) => connection,
        };
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM ledger_events")
            .fetch_one(connection)
            .await
            .expect("read");
        usize::try_from(count).expect("a count")
    }
}

async fn write(open: &Open, fence: Fence, amount: i64) -> Result<u64, Refusal> {
    let command = Command::Under(fence, "a", amount);
    match open.ledger.execute(command).await {
        Ok(executed) => Ok(executed.position),
        Err(ExecuteError::Rejected(refusal)) => Err(refusal),
        Err(error) => panic!("{error}"),
    }
}

async fn lease(shards: &Shards, shard: i64) -> Lease {
    let standing = shards.look().await.expect("seen");
    let mut leases = standing.leases.into_iter();
    leases.find(|lease| lease.shard == shard).expect("a shard")
}

pub(crate) async fn what_was_checked_is_committed_before_its_lease_is_taken(bench: Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    let (a, b) = (replica(&one, "a").await, replica(&two, "b").await);
    let (home, other) = (take(&a).await, take(&b).await);
    let mut hand = Hand::of(&bench).await;
    hand.pause("INSERT ON ledger_events").await;
    let writing = write(&one, home, 5);
    let racing = async {
        // The lease was checked; nothing is written yet.
        hand.until_waiting("ledger_append", For::GoingOn).await;
        hand.expire("a").await;
        let taking = b.take();
        let watching = async {
            hand.until_waiting("ledger_take", For::AnotherOne).await;
            hand.go_on().await;
        };
        let (taken, ()) = tokio::join!(taking, watching);
        taken.expect("taken")
    };
    let (written, taken) = tokio::join!(writing, racing);
    assert_eq!(written, Ok(1));
    assert_eq!(taken.len(), 1);
    assert_eq!(
        (taken[0].fence.shard, taken[0].fence.epoch),
        (home.shard, home.epoch + 1)
    );
    assert_eq!(taken[0].head, 1, "the new owner reads what was written");
    assert_eq!(write(&one, home, 5).await, Err(Refusal::Lost(home)));
    assert_eq!(write(&two, taken[0].fence, 1).await, Ok(2));
    assert_eq!(write(&two, other, 1).await, Ok(3));
    one.close().await;
    two.close().await;
}

pub(crate) async fn what_comes_during_a_takeover_is_not_written(bench: Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    let (a, b) = (replica(&one, "a").await, replica(&two, "b").await);
    let (home, other) = (take(&a).await, take(&b).await);
    let mut hand = Hand::of(&bench).await;
    hand.expire("a").await;
    hand.pause("UPDATE ON ledger_leases").await;
    let racing = async {
        hand.until_waiting("ledger_take", For::GoingOn).await;
        // The owner comes back before the takeover is committed, and its lease is good again, as far as it can see.
        let renewing = a.renew(false);
        let writing = async {
            // In one batch: what is written under another lease is not held up by the one that was lost.
            tokio::join!(
                write(&one, home, 5),
                one.ledger.execute(Command::Add("b", 1)),
            )
        };
        let watching = async {
            hand.until_waiting("ledger_append", For::AnotherOne).await;
            hand.until_waiting("UPDATE ledger_owners", For::AnotherOne)
                .await;
            hand.go_on().await;
        };
        tokio::join!(renewing, writing, watching)
    };
    let (taken, (renewed, (fenced, free), ())) = tokio::join!(b.take(), racing);
    assert_eq!(taken.expect("taken").len(), 1);
    assert!(renewed.expect("renewed"));
    assert_eq!(fenced, Err(Refusal::Lost(home)));
    assert_eq!(free.expect("added").reply, 1);
    assert_eq!(one.ledger.load(&account("a")).await.expect("loaded").1, 0);
    let seen = lease(&a, home.shard).await;
    assert_eq!((seen.mine, seen.owner.as_deref()), (false, Some("b")));
    assert!(lease(&b, other.shard).await.mine);
    one.close().await;
    two.close().await;
}

pub(crate) async fn a_renewal_that_is_under_way_keeps_its_shards(bench: Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    let (a, b) = (replica(&one, "a").await, replica(&two, "b").await);
    let home = take(&a).await;
    take(&b).await;
    let mut hand = Hand::of(&bench).await;
    hand.expire("a").await;
    hand.pause("UPDATE ON ledger_owners").await;
    let racing = async {
        hand.until_waiting("UPDATE ledger_owners", For::GoingOn)
            .await;
        let watching = async {
            hand.until_waiting("ledger_take", For::AnotherOne).await;
            hand.go_on().await;
        };
        let (taken, ()) = tokio::join!(b.take(), watching);
        taken.expect("nothing to take")
    };
    let (renewed, taken) = tokio::join!(a.renew(false), racing);
    assert!(renewed.expect("renewed"));
    assert_eq!(taken, []);
    assert_eq!(write(&one, home, 5).await, Ok(1));
    one.close().await;
    two.close().await;
}

pub(crate) async fn a_lease_that_has_run_out_writes_nothing_although_nobody_took_it(bench: Bench) {
    let one = bench.open().await;
    let a = replica(&one, "a").await;
    let home = take(&a).await;
    assert_eq!(write(&one, home, 5).await, Ok(1));
    let mut hand = Hand::of(&bench).await;
    hand.expire("a").await;
    assert_eq!(write(&one, home, 5).await, Err(Refusal::Lost(home)));
    assert_eq!(one.ledger.load(&account("a")).await.expect("loaded").1, 1);
    // Nor does an epoch of before.
    assert!(a.renew(false).await.expect("renewed"));
    let before = Fence {
        epoch: home.epoch - 1,
        ..home
    };
    assert_eq!(write(&one, before, 5).await, Err(Refusal::Lost(before)));
    one.close().await;
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_after_its_lease_was_taken() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let (one, two) = (bench.open().await, bench.open().await);
    let (a, b) = (replica(&one, "a").await, replica(&two, "b").await);
    let home = take(&a).await;
    take(&b).await;
    let mut hand = Hand::of(&bench).await;
    // The answer is lost; before the owner can ask what became of its batch, another one takes the shard.
    hand.pause("UPDATE OF session ON ledger_writers").await;
    bench.lose_next_answer();
    let racing = async {
        hand.until_waiting("ledger_writers", For::GoingOn).await;
        hand.expire("a").await;
        let taking = b.take();
        let watching = async {
            hand.until_waiting("ledger_take", For::AnotherOne).await;
            hand.go_on().await;
        };
        tokio::join!(taking, watching).0.expect("taken")
    };
    let (written, taken) = tokio::join!(write(&one, home, 5), racing);
    assert_eq!(written, Ok(1), "an acknowledged write is there");
    assert_eq!((taken.len(), taken[0].head), (1, 1));
    assert_eq!(write(&one, home, 5).await, Err(Refusal::Lost(home)));
    one.close().await;
    two.close().await;
}

pub(crate) async fn a_reader_never_sees_a_position_before_an_earlier_one(bench: Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    let mut hand = Hand::of(&bench).await;
    hand.pause("INSERT ON ledger_events").await;
    let racing = async {
        hand.until_waiting("ledger_append", For::GoingOn).await;
        let watching = async {
            hand.until_waiting("ledger_append", For::AnotherOne).await;
            let read = hand.visible().await;
            hand.go_on().await;
            read
        };
        tokio::join!(two.ledger.execute(Command::Add("b", 1)), watching)
    };
    let (first, (second, read)) = tokio::join!(one.ledger.execute(Command::Add("a", 1)), racing);
    assert_eq!(read, 0, "the second one waits for the first");
    let positions = (
        first.expect("added").position,
        second.expect("added").position,
    );
    assert_eq!(positions, (1, 2));
    one.close().await;
    two.close().await;
}

pub(crate) async fn a_process_takes_over_from_an_earlier_one_of_its_name_at_once(bench: Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    let old = replica(&one, "a").await;
    let before = take(&old).await;
    let new = replica(&two, "a").await;
    assert_eq!(write(&one, before, 5).await, Err(Refusal::Lost(before)));
    let after = take(&new).await;
    assert_eq!((after.shard, after.epoch), (before.shard, before.epoch + 1));
    assert_eq!(write(&two, after, 5).await, Ok(1));
    assert!(!old.renew(false).await.expect("asked"), "it was replaced");
    assert_eq!(old.take().await.expect("asked"), []);
    one.close().await;
    two.close().await;
}

pub(crate) async fn a_shard_goes_to_whoever_stays_and_back_to_its_home(bench: Bench) {
    let open = bench.open().await;
    let (a, b, c) = (
        replica(&open, "a").await,
        replica(&open, "b").await,
        replica(&open, "c").await,
    );
    let home = take(&a).await;
    take(&b).await;
    take(&c).await;
    // While its home is there to stay nobody else takes what was given up.
    assert!(a.release(home, b"left").await.expect("released"));
    assert!(!a.release(home, b"again").await.expect("asked"));
    assert_eq!(b.take().await.expect("asked"), []);
    assert!(a.renew(true).await.expect("renewed"));
    assert_eq!(a.take().await.expect("asked"), [], "it is about to go");
    let taken = b.take().await.expect("taken");
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].handed.as_deref(), Some(&b"left"[..]));
    assert_eq!(c.take().await.expect("asked"), []);
    a.leave().await.expect("left");
    let standing = c.look().await.expect("seen");
    assert_eq!(standing.owner(home.shard), Some("b"));
    assert!(standing.member("a").is_none() && standing.stays("b"));
    // Its home comes back, and is given what it is not allowed to take.
    let back = replica(&open, "a").await;
    assert_eq!(back.take().await.expect("asked"), []);
    assert!(b.release(taken[0].fence, b"").await.expect("released"));
    assert_eq!(c.take().await.expect("asked"), []);
    let again = take(&back).await;
    assert_eq!(again.epoch, home.epoch + 2);
    open.close().await;
}

#[tokio::test]
async fn a_database_of_the_first_version_learns_of_leases() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    script(
        &open,
        "DROP FUNCTION ledger_append; DROP FUNCTION ledger_take; DROP TABLE ledger_leases, ledger_owners;
         ALTER TABLE ledger_shards ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0, ADD COLUMN owner TEXT;
         CREATE FUNCTION ledger_append(BIGINT, TEXT, BIGINT, TEXT, BIGINT, TEXT[], BIGINT[], TEXT[], BYTEA[], TEXT[], BYTEA[], TEXT[], BIGINT[], TEXT[],
            TEXT[], TEXT[], BIGINT[], TEXT[], BIGINT[], BYTEA[]) RETURNS BIGINT LANGUAGE sql AS 'SELECT 1::bigint';
         UPDATE ledger_meta SET value = '1' WHERE key = 'schema_version'",
    )
    .await;
    open.close().await;
    let open = bench.open().await;
    let a = replica(&open, "a").await;
    let home = take(&a).await;
    assert_eq!(home.shard, 0, "what was there before has an owner now");
    assert_eq!(write(&open, home, 5).await, Ok(2));
    open.close().await;
    bench.open().await.close().await;
}
