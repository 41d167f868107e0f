//! The built-in processor: a bank for development, durable in a file of its own.
//!
//! It honours the [test payment methods](super::rules::Method), and forgets nothing on a crash: every answer is on disk before
//! it is given, and a key is answered the same for ever.

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row as _, Sqlite, SqlitePool, Transaction};

use super::rules::{self, Method};
use super::{Processor, ProcessorError, Request};
use crate::domain::{Answer, Operation};

/// How long `pm_slow` takes for the first call of each key.
const SLOW: Duration = Duration::from_secs(3);
/// How many calls of each key `pm_flaky` refuses.
const FLAKY_CALLS: i64 = 2;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS operations (
    key TEXT PRIMARY KEY,
    payment_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    currency TEXT NOT NULL,
    approved INTEGER NOT NULL,
    reference TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS operations_of_payment ON operations (payment_id);
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY,
    calls INTEGER NOT NULL
);
";

/// The bank could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "the built-in bank's file {path} cannot be opened ({source}): restore it, or move it away to start with an empty one"
)]
pub struct OpenError {
    path: String,
    source: sqlx::Error,
}

/// A bank in one SQLite file.
#[derive(Clone, Debug)]
pub struct Bank {
    pool: SqlitePool,
}

/// What a call came to, before it is answered.
enum Work {
    Unavailable,
    Done { answer: Answer, first: bool },
}

impl Bank {
    /// Opens the bank's file, or makes a new one.
    ///
    /// # Errors
    /// If it cannot be opened or is something else.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError {
            path: path.display().to_string(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(sqlx::Error::Io(error)))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        // One connection: calls are taken one after the other, as the counts need.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .map_err(failed)?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await.map_err(failed)?;
        Ok(Self { pool })
    }

    /// How often each operation was approved for a payment: at most once, whatever happened.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn approved(&self, payment_id: &str) -> Result<Vec<Operation>, ProcessorError> {
        let mut tx = self.pool.begin().await.map_err(unavailable)?;
        approved(&mut tx, payment_id).await.map_err(unavailable)
    }

    async fn work(&self, request: &Request, method: Option<Method>) -> Result<Work, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        let calls: i64 = sqlx::query_scalar(
            "INSERT INTO calls (key, calls) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET calls = calls + 1 RETURNING calls",
        )
        .bind(&request.key)
        .fetch_one(&mut *tx)
        .await?;
        if method == Some(Method::Flaky) && calls <= FLAKY_CALLS {
            tx.commit().await?;
            return Ok(Work::Unavailable);
        }
        let answer = match recorded(&mut tx, &request.key).await? {
            Some(answer) => answer,
            None => {
                let approved = approved(&mut tx, &request.payment_id).await?;
                let answer = rules::answer(request.operation, method, &approved, &request.key);
                record(&mut tx, request, &answer).await?;
                answer
            }
        };
        tx.commit().await?;
        Ok(Work::Done {
            answer,
            first: calls == 1,
        })
    }
}

impl Processor for Bank {
    fn perform<'a>(
        &'a self,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Answer, ProcessorError>> {
        async move {
            let method = Method::parse(&request.payment_method);
            let work = self
                .work(request, method)
                .await
                .map_err(|error| ProcessorError::Lost(error.to_string()))?;
            let Work::Done { answer, first } = work else {
                return Err(ProcessorError::Unavailable("try again".to_owned()));
            };
            if first && method == Some(Method::Slow) {
                tokio::time::sleep(SLOW).await;
            }
            if first && method.is_some_and(|method| method.is_silent(request.operation)) {
                std::future::pending::<()>().await;
            }
            Ok(answer)
        }
        .boxed()
    }

    fn status<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Answer>, ProcessorError>> {
        async move {
            let mut tx = self.pool.begin().await.map_err(unavailable)?;
            recorded(&mut tx, key).await.map_err(unavailable)
        }
        .boxed()
    }
}

fn unavailable(error: sqlx::Error) -> ProcessorError {
    ProcessorError::Unavailable(error.to_string())
}

async fn recorded(
    tx: &mut Transaction<'_, Sqlite>,
    key: &str,
) -> Result<Option<Answer>, sqlx::Error> {
    let row =
        sqlx::query("SELECT approved, reference, reason, message FROM operations WHERE key = ?")
            .bind(key)
            .fetch_optional(&mut **tx)
            .await?;
    row.map(|row| read(&row)).transpose()
}

fn read(row: &SqliteRow) -> Result<Answer, sqlx::Error> {
    Ok(if row.try_get::<i64, _>("approved")? == 1 {
        Answer::Approved {
            reference: row.try_get("reference")?,
        }
    } else {
        Answer::Declined {
            reason: row.try_get("reason")?,
            message: row.try_get("message")?,
        }
    })
}

async fn approved(
    tx: &mut Transaction<'_, Sqlite>,
    payment_id: &str,
) -> Result<Vec<Operation>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT operation FROM operations WHERE payment_id = ? AND approved = 1",
    )
    .bind(payment_id)
    .fetch_all(&mut **tx)
    .await?;
    Ok(names
        .iter()
        .filter_map(|name| Operation::parse(name))
        .collect())
}

async fn record(
    tx: &mut Transaction<'_, Sqlite>,
    request: &Request,
    answer: &Answer,
) -> Result<(), sqlx::Error> {
    let (approved, reference, reason, message) = match answer {
        Answer::Approved { reference } => (1, reference.as_str(), "", ""),
        Answer::Declined { reason, message } => (0, "", reason.as_str(), message.as_str()),
    };
    sqlx::query("INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .bind(&request.key)
        .bind(&request.payment_id)
        .bind(request.operation.name())
        .bind(request.amount.minor_units)
        .bind(&request.amount.currency)
        .bind(approved)
        .bind(reference)
        .bind(reason)
        .bind(message)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sagamesh_api::shop::v1::Money;

    use super::*;

    fn request(payment_id: &str, operation: Operation, method: Method) -> Request {
        Request {
            key: operation.key(payment_id),
            payment_id: payment_id.into(),
            operation,
            amount: Money {
                minor_units: 100,
                currency: "EUR".into(),
            },
            payment_method: method.token().into(),
        }
    }

    #[tokio::test]
    async fn a_key_does_its_work_once_and_a_reopened_bank_remembers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank.db");
        let authorize = request("p", Operation::Authorize, Method::Fine);
        let answer = {
            let bank = Bank::open(&path).await.unwrap();
            assert_eq!(bank.status(&authorize.key).await.unwrap(), None);
            let answer = bank.perform(&authorize).await.unwrap();
            assert_eq!(bank.perform(&authorize).await.unwrap(), answer);
            answer
        };
        let bank = Bank::open(&path).await.unwrap();
        assert_eq!(
            bank.status(&authorize.key).await.unwrap(),
            Some(answer.clone())
        );
        assert_eq!(bank.perform(&authorize).await.unwrap(), answer);
        assert_eq!(bank.approved("p").await.unwrap(), [Operation::Authorize]);
    }

    #[tokio::test]
    async fn flaky_is_unavailable_twice_for_each_key() {
        let folder = tempfile::tempdir().unwrap();
        let bank = Bank::open(&folder.path().join("bank.db")).await.unwrap();
        for operation in [Operation::Authorize, Operation::Capture] {
            let request = request("p", operation, Method::Flaky);
            for _ in 0..2 {
                assert!(matches!(
                    bank.perform(&request).await,
                    Err(ProcessorError::Unavailable(_))
                ));
                assert_eq!(bank.status(&request.key).await.unwrap(), None);
            }
            assert!(matches!(
                bank.perform(&request).await,
                Ok(Answer::Approved { .. })
            ));
        }
    }

    #[tokio::test]
    async fn the_silent_methods_do_the_work_and_answer_the_second_time() {
        let folder = tempfile::tempdir().unwrap();
        let bank = Bank::open(&folder.path().join("bank.db")).await.unwrap();
        let authorize = request("p", Operation::Authorize, Method::SilentCapture);
        assert!(matches!(
            bank.perform(&authorize).await,
            Ok(Answer::Approved { .. })
        ));
        let capture = request("p", Operation::Capture, Method::SilentCapture);
        // The work is done although the caller hears nothing.
        let done = async {
            while bank.status(&capture.key).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answer = bank.perform(&capture) => panic!("answered {answer:?}"),
            () = done => {}
        }
        assert!(matches!(
            bank.perform(&capture).await,
            Ok(Answer::Approved { .. })
        ));
    }

    #[tokio::test]
    async fn slow_keeps_the_first_caller_waiting_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let bank = Bank::open(&folder.path().join("bank.db")).await.unwrap();
        let authorize = request("p", Operation::Authorize, Method::Slow);
        let done = async {
            while bank.status(&authorize.key).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = done => {}
            answer = bank.perform(&authorize) => panic!("answered {answer:?} at once"),
        }
        assert!(matches!(
            bank.perform(&authorize).await,
            Ok(Answer::Approved { .. })
        ));
    }

    #[tokio::test]
    async fn a_late_authorization_finds_its_void() {
        let folder = tempfile::tempdir().unwrap();
        let bank = Bank::open(&folder.path().join("bank.db")).await.unwrap();
        assert!(matches!(
            bank.perform(&request("p", Operation::Void, Method::Fine))
                .await,
            Ok(Answer::Approved { .. })
        ));
        let late = bank
            .perform(&request("p", Operation::Authorize, Method::Fine))
            .await
            .unwrap();
        assert!(
            matches!(late, Answer::Declined { reason, .. } if reason == "AUTHORIZATION_VOIDED")
        );
    }

    #[tokio::test]
    async fn a_file_that_is_no_bank_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank.db");
        std::fs::write(
            &path,
            "this is no database, but long enough to look like something else entirely",
        )
        .unwrap();
        let error = Bank::open(&path).await.unwrap_err().to_string();
        assert!(
            error.contains("bank.db") && error.contains("move it away"),
            "{error}"
        );
    }
}
