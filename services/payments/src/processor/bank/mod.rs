//! The built-in processor: a bank for development, durable in a place of its own.
//!
//! It honours the [test payment methods](super::rules::Method), and forgets nothing on a crash: every answer is on disk before
//! it is given, and a key is answered the same for ever. Its place is a SQLite file; with PostgreSQL, where payments may have
//! replicas, it is a schema that all of them share: a bank for each would not know what another one authorized.

mod place;

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ledger::StoreConfig;

use super::rules::{self, Method};
use super::{Processor, ProcessorError, Request};
use crate::domain::{Answer, Operation};
use place::Place;

pub use place::OpenError;

/// How long `pm_slow` takes for the first call of each key.
const SLOW: Duration = Duration::from_secs(3);
/// How many calls of each key `pm_flaky` refuses.
const FLAKY_CALLS: i64 = 2;

/// A bank.
#[derive(Clone, Debug)]
pub struct Bank {
    place: Place,
    test_cards: bool,
}

/// What a call came to, before it is answered.
enum Work {
    Unavailable,
    Done { answer: Answer, first: bool },
}

impl Bank {
    /// The bank that belongs to a payments service with its log there: in the same PostgreSQL database, or in a file of the data folder.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open(store: &StoreConfig) -> Result<Self, OpenError> {
        if store.database_url.is_empty() {
            Self::in_file(&store.data_dir.join("bank.db")).await
        } else {
            Self::in_postgres(&store.database_url).await
        }
    }

    /// Opens the bank's file, or makes a new one.
    ///
    /// # Errors
    /// If it cannot be opened or is something else.
    pub async fn in_file(path: &Path) -> Result<Self, OpenError> {
        Ok(Self::of(Place::file(path).await?))
    }

    /// Opens the bank of this PostgreSQL database, or makes a new one.
    ///
    /// # Errors
    /// If the database does not answer, or refuses.
    pub async fn in_postgres(url: &str) -> Result<Self, OpenError> {
        Ok(Self::of(Place::postgres(url).await?))
    }

    fn of(place: Place) -> Self {
        Self {
            place,
            test_cards: true,
        }
    }

    /// The same bank, which knows its test cards or does not.
    #[must_use]
    pub fn with_test_cards(self, test_cards: bool) -> Self {
        Self { test_cards, ..self }
    }

    fn method(&self, token: &str) -> Option<Method> {
        Method::parse(token).filter(|method| self.test_cards || !method.is_test_card())
    }

    /// How often each operation was approved for a payment: at most once, whatever happened.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn approved(&self, payment_id: &str) -> Result<Vec<Operation>, ProcessorError> {
        let mut tx = self.place.begin().await.map_err(unavailable)?;
        tx.approved(payment_id).await.map_err(unavailable)
    }

    async fn work(&self, request: &Request, method: Option<Method>) -> Result<Work, sqlx::Error> {
        let mut tx = self.place.begin().await?;
        tx.take_turns(&request.payment_id).await?;
        let calls = tx.count_call(&request.key).await?;
        if method == Some(Method::Flaky) && calls <= FLAKY_CALLS {
            tx.commit().await?;
            return Ok(Work::Unavailable);
        }
        let answer = match tx.recorded(&request.key).await? {
            Some(answer) => answer,
            None => {
                let approved = tx.approved(&request.payment_id).await?;
                let answer = rules::answer(request.operation, method, &approved, &request.key);
                tx.record(request, &answer).await?;
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
            let method = self.method(&request.payment_method);
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
            let mut tx = self.place.begin().await.map_err(unavailable)?;
            tx.recorded(key).await.map_err(unavailable)
        }
        .boxed()
    }
}

fn unavailable(error: sqlx::Error) -> ProcessorError {
    ProcessorError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
