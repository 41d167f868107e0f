//! The barrier's table on SQLite and on PostgreSQL: one suite.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use participant::barrier::Key;
use participant::barrier::sql::{self, Entry};
use participant::{Direction, Outcome};
use sqlx::{Connection as _, SqliteConnection};

const NOW: i64 = 1_000;

fn key(saga: &str, direction: Direction) -> Key {
    let not_after = (direction == Direction::Action).then_some(NOW);
    Key {
        saga_id: saga.into(),
        step: "step".into(),
        direction,
        not_after,
    }
}

fn action(saga: &str) -> Key {
    key(saga, Direction::Action)
}

fn compensation(saga: &str) -> Key {
    key(saga, Direction::Compensation)
}

fn reason(outcome: &Outcome) -> &str {
    outcome
        .failure()
        .map_or("", |failure| failure.reason.as_str())
}

macro_rules! suite {
    ($connection:ty, $database:ty) => {
        use super::*;

        /// The service's work: notes what it does, then says `outcome`.
        async fn guarded(db: &mut $connection, key: &Key, outcome: Outcome) -> Outcome {
            let (saga, what) = (key.saga_id.clone(), format!("{:?}", key.direction));
            let work = async move |tx: &mut $connection| {
                let note = sqlx::query("INSERT INTO effects (saga_id, what) VALUES ($1, $2)")
                    .bind(saga)
                    .bind(what);
                note.execute(tx).await?;
                Ok(outcome)
            };
            sql::guarded(db, key, || NOW, work).await
        }

        /// What was done for a saga.
        async fn effects(db: &mut $connection, saga: &str) -> Vec<String> {
            let effects =
                sqlx::query_scalar("SELECT what FROM effects WHERE saga_id = $1 ORDER BY what")
                    .bind(saga);
            effects.fetch_all(db).await.unwrap()
        }

        #[tokio::test]
        async fn a_duplicate_is_answered_as_the_first_time() {
            let Some(database) = <$database>::create().await else {
                return;
            };
            let mut db = database.connect().await;
            let first = guarded(&mut db, &action("s"), Outcome::text("42")).await;
            assert_eq!(first, Outcome::text("42"));
            assert_eq!(
                guarded(&mut db, &action("s"), Outcome::text("43")).await,
                first
            );
            let undone = guarded(&mut db, &compensation("s"), Outcome::done()).await;
            assert_eq!(
                guarded(&mut db, &compensation("s"), Outcome::text("again")).await,
                undone
            );
            assert_eq!(effects(&mut db, "s").await, ["Action", "Compensation"]);
            // Another step or saga is another matter.
            let other = Key {
                step: "other".into(),
                ..action("s")
            };
            assert_eq!(
                guarded(&mut db, &other, Outcome::done()).await,
                Outcome::done()
            );
        }

        #[tokio::test]
        async fn a_rejection_is_for_good_and_leaves_nothing_to_undo() {
            let Some(database) = <$database>::create().await else {
                return;
            };
            let mut db = database.connect().await;
            let no = guarded(&mut db, &action("s"), Outcome::rejected("NO", "no")).await;
            assert_eq!(guarded(&mut db, &action("s"), Outcome::done()).await, no);
            let before = effects(&mut db, "s").await;
            assert_eq!(
                guarded(&mut db, &compensation("s"), Outcome::text("ran")).await,
                Outcome::done()
            );
            assert_eq!(effects(&mut db, "s").await, before);
        }

        #[tokio::test]
        async fn what_is_not_final_leaves_nothing_behind() {
            let Some(database) = <$database>::create().await else {
                return;
            };
            let mut db = database.connect().await;
            for outcome in [
                Outcome::transient("LATER", ""),
                Outcome::unknown("WHO_KNOWS", ""),
            ] {
                assert_eq!(
                    guarded(&mut db, &action("s"), outcome.clone()).await,
                    outcome
                );
                assert!(effects(&mut db, "s").await.is_empty());
            }
            let broken = async |tx: &mut $connection| {
                sqlx::query("INSERT INTO no_such_table VALUES (1)")
                    .execute(tx)
                    .await?;
                Ok(Outcome::done())
            };
            let outcome = sql::guarded(&mut db, &action("s"), || NOW, broken).await;
            assert_eq!(reason(&outcome), "DATABASE_UNAVAILABLE");
            assert_eq!(
                guarded(&mut db, &action("s"), Outcome::done()).await,
                Outcome::done()
            );
            // A compensation that says no may be tried again.
            let no = Outcome::rejected("NOT_NOW", "");
            assert_eq!(guarded(&mut db, &compensation("s"), no.clone()).await, no);
            assert_eq!(
                guarded(&mut db, &compensation("s"), Outcome::done()).await,
                Outcome::done()
            );
            assert_eq!(effects(&mut db, "s").await, ["Action", "Compensation"]);
        }

        #[tokio::test]
        async fn an_empty_compensation_does_nothing_and_its_action_is_refused() {
            let Some(database) = <$database>::create().await else {
                return;
            };
            let mut db = database.connect().await;
            for _ in 0..2 {
                assert_eq!(
                    guarded(&mut db, &compensation("s"), Outcome::text("ran")).await,
                    Outcome::done()
                );
            }
            for _ in 0..2 {
                let late = guarded(&mut db, &action("s"), Outcome::done()).await;
                assert_eq!(reason(&late), "COMPENSATED_BEFORE");
            }
            assert!(effects(&mut db, "s").await.is_empty());
        }

        #[tokio::test]
        async fn an_action_does_not_take_effect_after_its_last_moment() {
            let Some(database) = <$database>::create().await else {
                return;
            };
            let mut db = database.connect().await;
            let late = Key {
                not_after: Some(NOW - 1),
                ..action("s")
            };
            assert_eq!(
                reason(&guarded(&mut db, &late, Outcome::done()).await),
                "TOO_LATE"
            );
            assert!(effects(&mut db, "s").await.is_empty());
            // Nothing was recorded: in time it runs. A late duplicate of that is a replay.
            assert_eq!(
                guarded(&mut db, &action("s"), Outcome::done()).await,
                Outcome::done()
            );
            assert_eq!(
                guarded(&mut db, &late, Outcome::text("ran")).await,
                Outcome::done()
            );
            let undo = Key {
                not_after: Some(0),
                ..compensation("s")
            };
            assert_eq!(
                guarded(&mut db, &undo, Outcome::done()).await,
                Outcome::done()
            );
        }

        #[tokio::test]
        async fn rows_are_forgotten_by_age() {
            let Some(database) = <$database>::create().await else {
                return;
            };
            let mut db = database.connect().await;
            for saga in ["a", "b", "c"] {
                guarded(&mut db, &action(saga), Outcome::done()).await;
            }
            assert_eq!(sql::forget(&mut db, NOW, 10).await.unwrap(), 0);
            assert_eq!(sql::forget(&mut db, NOW + 1, 2).await.unwrap(), 2);
            assert_eq!(sql::forget(&mut db, NOW + 1, 10).await.unwrap(), 1);
            sql::create_table(&mut db).await.unwrap();
        }

        /// Runs `second` while the transaction of `first` is open, after which that commits or rolls back. Returns what
        /// `second` says; it must not have said anything before.
        async fn overlapping(
            first: Key,
            outcome: Option<Outcome>,
            second: Key,
        ) -> Option<(Outcome, Vec<String>)> {
            let database = <$database>::create().await?;
            let (mut db, mut other) = (database.connect().await, database.connect().await);
            let mut tx = db.begin().await.unwrap();
            let entry = sql::enter(&mut *tx, &first, || NOW).await.unwrap();
            let waiting = tokio::spawn(async move {
                let says = guarded(&mut other, &second, Outcome::text("second")).await;
                (says, other)
            });
            tokio::pin!(waiting);
            let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
            assert!(
                early.is_err(),
                "it did not wait for the other transaction: {:?}",
                early.unwrap().unwrap().0
            );
            match (entry, outcome) {
                (Entry::Proceed(pass), Some(outcome)) => {
                    assert!(pass.record(&mut *tx, &outcome).await.unwrap());
                    tx.commit().await.unwrap();
                }
                (Entry::Answer(_), Some(_)) => tx.commit().await.unwrap(),
                (_, None) => tx.rollback().await.unwrap(),
            }
            let (says, mut other) = waiting.await.unwrap();
            Some((says, effects(&mut other, "s").await))
        }

        #[tokio::test]
        async fn an_action_that_waited_beyond_its_last_moment_is_too_late() {
            let Some(database) = <$database>::create().await else {
                return;
            };
            let (mut db, mut other) = (database.connect().await, database.connect().await);
            let mut tx = db.begin().await.unwrap();
            let first = sql::enter(&mut *tx, &action("s"), || NOW).await.unwrap();
            assert!(matches!(first, Entry::Proceed(_)));
            let time = Arc::new(AtomicI64::new(NOW));
            let clock = Arc::clone(&time);
            let waiting = tokio::spawn(async move {
                let now = || clock.load(Ordering::SeqCst);
                let work = async |_: &mut $connection| Ok(Outcome::text("ran"));
                sql::guarded(&mut other, &action("s"), now, work).await
            });
            tokio::pin!(waiting);
            let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
            assert!(early.is_err(), "it did not wait for the other transaction");
            time.store(NOW + 1, Ordering::SeqCst);
            tx.rollback().await.unwrap();
            assert_eq!(reason(&waiting.await.unwrap()), "TOO_LATE");
            // It left nothing: a compensation finds no action.
            let undone = guarded(&mut db, &compensation("s"), Outcome::text("ran")).await;
            assert_eq!(undone, Outcome::done());
        }

        #[tokio::test]
        async fn two_duplicates_run_one_after_the_other() {
            let first = Some(Outcome::text("first"));
            let Some((says, effects)) = overlapping(action("s"), first, action("s")).await else {
                return;
            };
            assert_eq!(says, Outcome::text("first"));
            assert!(effects.is_empty());
        }

        #[tokio::test]
        async fn a_duplicate_of_what_was_rolled_back_runs() {
            let Some((says, effects)) = overlapping(action("s"), None, action("s")).await else {
                return;
            };
            assert_eq!(says, Outcome::text("second"));
            assert_eq!(effects, ["Action"]);
        }

        #[tokio::test]
        async fn a_compensation_waits_for_its_action_and_undoes_it() {
            let first = Some(Outcome::done());
            let Some((says, effects)) = overlapping(action("s"), first, compensation("s")).await
            else {
                return;
            };
            assert_eq!(says, Outcome::text("second"));
            assert_eq!(effects, ["Compensation"]);
        }

        #[tokio::test]
        async fn an_action_waits_for_its_compensation_and_is_refused() {
            let first = Some(Outcome::done());
            let Some((says, effects)) = overlapping(compensation("s"), first, action("s")).await
            else {
                return;
            };
            assert_eq!(reason(&says), "COMPENSATED_BEFORE");
            assert!(effects.is_empty());
        }

        #[tokio::test]
        async fn many_at_once_are_as_good_as_one_after_the_other() {
            let Some(database) = <$database>::create().await else {
                return;
            };
            let mut db = database.connect().await;
            for round in 0..4 {
                let saga = format!("saga-{round}");
                let mut all = tokio::task::JoinSet::new();
                for number in 0..12 {
                    let mut db = database.connect().await;
                    let key = if number % 3 == round % 3 {
                        compensation(&saga)
                    } else {
                        action(&saga)
                    };
                    let outcome = if number % 4 == 0 {
                        Outcome::transient("LATER", "")
                    } else {
                        Outcome::done()
                    };
                    all.spawn(async move { guarded(&mut db, &key, outcome).await });
                }
                all.join_all().await;
                let settled = guarded(&mut db, &compensation(&saga), Outcome::done()).await;
                assert_eq!(settled, Outcome::done());
                let effects = effects(&mut db, &saga).await;
                assert!(
                    effects.is_empty() || effects == ["Action", "Compensation"],
                    "{effects:?}"
                );
            }
        }
    };
}

mod sqlite {
    suite!(SqliteConnection, File);

    /// Its outcome would be replayed for ever, and its work is not there.
    #[tokio::test]
    async fn work_that_passes_over_a_full_disk_is_not_recorded() {
        let database = File::create().await.expect("always there");
        let mut db = database.connect().await;
        let work = async |tx: &mut SqliteConnection| {
            sqlx::query("INSERT INTO effects (saga_id, what) VALUES ('s', 'Action')")
                .execute(&mut *tx)
                .await?;
            sqlx::raw_sql("PRAGMA max_page_count = 1")
                .execute(&mut *tx)
                .await?;
            let large = "INSERT INTO effects (saga_id, what) VALUES ('s', hex(zeroblob(1000000)))";
            let full = sqlx::query(large).execute(&mut *tx).await;
            assert!(full.is_err(), "it was to be full");
            sqlx::raw_sql("PRAGMA max_page_count = 1000000")
                .execute(&mut *tx)
                .await?;
            Ok(Outcome::done())
        };
        let outcome = sql::guarded(&mut db, &action("s"), || NOW, work).await;
        assert_eq!(reason(&outcome), "TRANSACTION_ENDED");
        let mut other = database.connect().await;
        assert!(effects(&mut other, "s").await.is_empty());
        let again = guarded(&mut other, &action("s"), Outcome::text("again")).await;
        assert_eq!(again, Outcome::text("again"));
    }

    /// What came after would be answered and not be durable.
    #[tokio::test]
    async fn a_connection_whose_transaction_ended_by_itself_is_refused() {
        let database = File::create().await.expect("always there");
        let mut db = database.connect().await;
        let limit = async |db: &mut SqliteConnection, pages: i64| {
            let sql = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
            sqlx::raw_sql(sql).execute(db).await.unwrap();
        };
        limit(&mut db, 1).await;
        for number in 0.. {
            let saga = format!("filling-{number}");
            let outcome = guarded(&mut db, &action(&saga), Outcome::text("x".repeat(500))).await;
            if reason(&outcome) == "DATABASE_UNAVAILABLE" {
                break;
            }
        }
        limit(&mut db, 1 << 20).await;
        let refused = guarded(&mut db, &action("s"), Outcome::done()).await;
        assert_eq!(reason(&refused), "DATABASE_UNAVAILABLE");
        // The same on another connection, where everybody can see it.
        let mut other = database.connect().await;
        let done = guarded(&mut other, &action("s"), Outcome::done()).await;
        assert_eq!(done, Outcome::done());
        assert_eq!(
            effects(&mut database.connect().await, "s").await,
            ["Action"]
        );
    }

    /// A database file of its own.
    struct File(tempfile::TempDir);

    impl File {
        async fn create() -> Option<Self> {
            let file = Self(tempfile::tempdir().unwrap());
            let mut db = file.connect().await;
            sqlx::query("CREATE TABLE effects (saga_id TEXT, what TEXT)")
                .execute(&mut db)
                .await
                .unwrap();
            sql::create_table(&mut db).await.unwrap();
            Some(file)
        }

        async fn connect(&self) -> SqliteConnection {
            use sqlx::ConnectOptions as _;
            let options = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(self.0.path().join("test.db"))
                .create_if_missing(true)
                .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                .busy_timeout(Duration::from_secs(20));
            options.connect().await.unwrap()
        }
    }
}

mod postgres {
    use sqlx::PgConnection;

    suite!(PgConnection, Database);

    /// A database of its own.
    struct Database(String);

    impl Database {
        async fn create() -> Option<Self> {
            let database = Self(ledger::testing::postgres().await?.database().await);
            let mut db = database.connect().await;
            sqlx::query("CREATE TABLE effects (saga_id TEXT, what TEXT)")
                .execute(&mut db)
                .await
                .unwrap();
            sql::create_table(&mut db).await.unwrap();
            Some(database)
        }

        async fn connect(&self) -> PgConnection {
            PgConnection::connect(&self.0).await.unwrap()
        }
    }
}
