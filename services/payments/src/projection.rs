//! The read side: payments and accounts, as tables.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use ledger::sql::{Dialect, Tx, Value};
use ledger::{BoxFuture, Error, Projection, Recorded, params};
use sagamesh_api::shop::payments::v1 as api;

use crate::domain::Event;

/// Name of the projection.
pub const NAME: &str = "books";

/// Keeps the tables `payments`, `accounts` and `books_position`.
#[derive(Clone, Copy, Debug, Default)]
pub struct BooksProjection;

impl Projection for BooksProjection {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn schema(&self, _dialect: Dialect) -> &'static [&'static str] {
        &[
            PAYMENTS,
            PAYMENTS_BY_TIME,
            PAYMENTS_BY_CUSTOMER,
            ACCOUNTS,
            POSITION,
        ]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["payments", "accounts", "books_position"]
    }

    fn apply<'a>(
        &'a mut self,
        tx: &'a mut Tx,
        events: &'a [Recorded],
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let batch = Batch::of(events)?;
            tx.execute_rows(INSERT_PAYMENT, batch.payment_rows(), UPDATE_PAYMENT)
                .await?;
            tx.execute_rows(INSERT_ACCOUNT, batch.account_rows(), UPDATE_ACCOUNT)
                .await?;
            tx.execute(UPSERT_POSITION, params![batch.position]).await?;
            Ok(())
        }
        .boxed()
    }
}

/// `seq` is the position of a payment's first event: newest first is by it.
const PAYMENTS: &str = "CREATE TABLE payments (
    id TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,
    customer_id TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    state BIGINT NOT NULL,
    decline_reason TEXT NOT NULL,
    create_millis BIGINT NOT NULL,
    update_millis BIGINT NOT NULL
)";
const PAYMENTS_BY_TIME: &str = "CREATE INDEX payments_by_time ON payments (seq)";
const PAYMENTS_BY_CUSTOMER: &str =
    "CREATE INDEX payments_by_customer ON payments (customer_id, seq)";
const ACCOUNTS: &str = "CREATE TABLE accounts (
    name TEXT NOT NULL,
    currency TEXT NOT NULL,
    balance BIGINT NOT NULL,
    PRIMARY KEY (name, currency)
)";
/// How far the books go: read in the same statement as they are.
const POSITION: &str =
    "CREATE TABLE books_position (id BIGINT PRIMARY KEY, position BIGINT NOT NULL)";

const INSERT_PAYMENT: &str = "INSERT INTO payments \
    (id, seq, customer_id, amount_minor, currency, state, decline_reason, create_millis, update_millis) VALUES";
/// State 0 and an empty reason keep what is there; who and how much never change.
const UPDATE_PAYMENT: &str = "ON CONFLICT (id) DO UPDATE SET \
    state = CASE WHEN excluded.state = 0 THEN payments.state ELSE excluded.state END, \
    decline_reason = CASE WHEN excluded.decline_reason = '' THEN payments.decline_reason ELSE excluded.decline_reason END, \
    update_millis = excluded.update_millis";
const INSERT_ACCOUNT: &str = "INSERT INTO accounts (name, currency, balance) VALUES";
const UPDATE_ACCOUNT: &str =
    "ON CONFLICT (name, currency) DO UPDATE SET balance = accounts.balance + excluded.balance";
const UPSERT_POSITION: &str = "INSERT INTO books_position (id, position) VALUES (1, $1) \
    ON CONFLICT (id) DO UPDATE SET position = excluded.position";

/// What a batch of events does to one payment.
#[derive(Default)]
struct PaymentChange {
    seq: u64,
    customer_id: String,
    amount_minor: i64,
    currency: String,
    state: api::PaymentState,
    decline_reason: String,
    create_millis: i64,
    update_millis: i64,
}

/// A batch, one row for each payment and account that it touches.
#[derive(Default)]
struct Batch {
    payments: BTreeMap<String, PaymentChange>,
    accounts: BTreeMap<(String, String), i64>,
    position: u64,
}

impl Batch {
    fn of(events: &[Recorded]) -> Result<Self, Error> {
        let mut batch = Self::default();
        for recorded in events {
            let event = Event::decode(&recorded.type_name, &recorded.data)
                .map_err(|error| Error::decode(&recorded.type_name, error))?;
            batch.position = recorded.position;
            batch.payment(recorded, &event);
            for posting in event.entry().into_iter().flat_map(|entry| &entry.postings) {
                let amount = posting.amount.clone().unwrap_or_default();
                *batch
                    .accounts
                    .entry((posting.account.clone(), amount.currency))
                    .or_default() += amount.minor_units;
            }
        }
        Ok(batch)
    }

    fn payment(&mut self, recorded: &Recorded, event: &Event) {
        let first = || PaymentChange {
            seq: recorded.position,
            create_millis: recorded.commit_millis,
            ..PaymentChange::default()
        };
        let change = self
            .payments
            .entry(recorded.stream.key().to_owned())
            .or_insert_with(first);
        change.update_millis = recorded.commit_millis;
        if let Some(state) = event.shows() {
            change.state = state;
        }
        match event {
            Event::Intent(intent) => {
                let amount = intent.amount.clone().unwrap_or_default();
                change.customer_id.clone_from(&intent.customer_id);
                change.amount_minor = amount.minor_units;
                change.currency = amount.currency;
            }
            Event::Declined(declined) => change.decline_reason.clone_from(&declined.reason),
            Event::Authorized(_) | Event::Voided(_) | Event::Captured(_) | Event::Refunded(_) => {}
        }
    }

    fn payment_rows(&self) -> Vec<Vec<Value>> {
        let row = |(id, change): (&String, &PaymentChange)| {
            params![
                id,
                change.seq,
                &change.customer_id,
                change.amount_minor,
                &change.currency,
                change.state as i32,
                &change.decline_reason,
                change.create_millis,
                change.update_millis,
            ]
        };
        self.payments.iter().map(row).collect()
    }

    fn account_rows(&self) -> Vec<Vec<Value>> {
        let row = |((name, currency), balance): (&(String, String), &i64)| {
            params![name, currency, *balance]
        };
        self.accounts.iter().map(row).collect()
    }
}
