//! The read side: what there is and what is held, as tables.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use ledger::sql::{Dialect, Tx, Value};
use ledger::{BoxFuture, Error, Projection, Recorded, params};
use prost::Message as _;
use sagamesh_api::shop::inventory::v1 as api;

use crate::domain::Event;

/// Name of the projection.
pub const NAME: &str = "shelf";

/// Keeps the tables `items` and `reservations`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShelfProjection;

impl Projection for ShelfProjection {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn schema(&self, _dialect: Dialect) -> &'static [&'static str] {
        &[ITEMS, RESERVATIONS, RESERVATIONS_DUE]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["items", "reservations"]
    }

    fn apply<'a>(
        &'a mut self,
        tx: &'a mut Tx,
        events: &'a [Recorded],
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let batch = Batch::of(events)?;
            tx.execute_rows(INSERT_ITEM, batch.item_rows(), UPDATE_ITEM)
                .await?;
            tx.execute_rows(
                INSERT_RESERVATION,
                batch.reservation_rows(),
                UPDATE_RESERVATION,
            )
            .await?;
            Ok(())
        }
        .boxed()
    }
}

const ITEMS: &str = "CREATE TABLE items (
    sku TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    available BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    committed BIGINT NOT NULL,
    price_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    version BIGINT NOT NULL,
    update_millis BIGINT NOT NULL
)";
const RESERVATIONS: &str = "CREATE TABLE reservations (
    id TEXT PRIMARY KEY,
    state BIGINT NOT NULL,
    lines BLOB NOT NULL,
    expire_millis BIGINT NOT NULL
)";
/// For the sweeper.
const RESERVATIONS_DUE: &str =
    "CREATE INDEX reservations_due ON reservations (state, expire_millis, id)";

const INSERT_ITEM: &str = "INSERT INTO items \
    (sku, name, available, reserved, committed, price_minor, currency, version, update_millis) VALUES";
/// A row holds differences; an empty name keeps the name, an empty currency the price.
const UPDATE_ITEM: &str = "ON CONFLICT (sku) DO UPDATE SET \
    name = CASE WHEN excluded.name = '' THEN items.name ELSE excluded.name END, \
    available = items.available + excluded.available, \
    reserved = items.reserved + excluded.reserved, \
    committed = items.committed + excluded.committed, \
    price_minor = CASE WHEN excluded.currency = '' THEN items.price_minor ELSE excluded.price_minor END, \
    currency = CASE WHEN excluded.currency = '' THEN items.currency ELSE excluded.currency END, \
    version = excluded.version, \
    update_millis = excluded.update_millis";
const INSERT_RESERVATION: &str =
    "INSERT INTO reservations (id, state, lines, expire_millis) VALUES";
const UPDATE_RESERVATION: &str = "ON CONFLICT (id) DO UPDATE SET state = excluded.state";

/// What a batch of events does to one item.
#[derive(Default)]
struct ItemChange {
    name: String,
    available: i64,
    reserved: i64,
    committed: i64,
    price_minor: i64,
    currency: String,
    version: u64,
    update_millis: i64,
}

/// What a batch of events does to one reservation.
struct ReservationChange {
    state: api::ReservationState,
    lines: Vec<u8>,
    expire_millis: i64,
}

/// A batch, one row for each item and reservation that it touches.
#[derive(Default)]
struct Batch {
    items: BTreeMap<String, ItemChange>,
    reservations: BTreeMap<String, ReservationChange>,
}

impl Batch {
    fn of(events: &[Recorded]) -> Result<Self, Error> {
        let mut batch = Self::default();
        for recorded in events {
            let event = Event::decode(&recorded.type_name, &recorded.data)
                .map_err(|error| Error::decode(&recorded.type_name, error))?;
            match recorded.stream.kind() {
                "item" => batch.item(recorded, &event),
                _ => batch.reservation(recorded.stream.key(), &event),
            }
        }
        Ok(batch)
    }

    fn item(&mut self, recorded: &Recorded, event: &Event) {
        let change = self
            .items
            .entry(recorded.stream.key().to_owned())
            .or_default();
        change.version = recorded.version;
        change.update_millis = recorded.commit_millis;
        let mut count = |available: i64, reserved: i64, committed: i64, quantity: u32| {
            change.available += available * i64::from(quantity);
            change.reserved += reserved * i64::from(quantity);
            change.committed += committed * i64::from(quantity);
        };
        match event {
            Event::Restocked(restocked) => {
                change.available += i64::try_from(restocked.quantity).unwrap_or(i64::MAX);
                change.name.clone_from(&restocked.name);
                if let Some(price) = &restocked.unit_price {
                    change.price_minor = price.minor_units;
                    change.currency.clone_from(&price.currency);
                }
            }
            Event::Reserved(event) => count(-1, 1, 0, event.quantity),
            Event::Released(event) => count(1, -1, 0, event.quantity),
            Event::Committed(event) => count(0, -1, 1, event.quantity),
            Event::Returned(event) => count(1, 0, -1, event.quantity),
            Event::ReservationMade(_)
            | Event::ReservationReleased(_)
            | Event::ReservationCommitted(_)
            | Event::ReservationReturned(_) => {}
        }
    }

    fn reservation(&mut self, id: &str, event: &Event) {
        let state = match event {
            Event::ReservationMade(made) => {
                let expire = made
                    .expire_time
                    .as_ref()
                    .map_or(0, chassis::timestamp::to_millis);
                let state = api::ReservationState::Held;
                let change = ReservationChange {
                    state,
                    lines: made.encode_to_vec(),
                    expire_millis: expire,
                };
                self.reservations.insert(id.to_owned(), change);
                return;
            }
            Event::ReservationReleased(_) => api::ReservationState::Released,
            Event::ReservationCommitted(_) => api::ReservationState::Committed,
            Event::ReservationReturned(_) => api::ReservationState::Returned,
            Event::Restocked(_)
            | Event::Reserved(_)
            | Event::Released(_)
            | Event::Committed(_)
            | Event::Returned(_) => return,
        };
        let unseen = || ReservationChange {
            state,
            lines: Vec::new(),
            expire_millis: 0,
        };
        self.reservations
            .entry(id.to_owned())
            .or_insert_with(unseen)
            .state = state;
    }

    fn item_rows(&self) -> Vec<Vec<Value>> {
        let row = |(sku, change): (&String, &ItemChange)| {
            params![
                sku,
                &change.name,
                change.available,
                change.reserved,
                change.committed,
                change.price_minor,
                &change.currency,
                change.version,
                change.update_millis,
            ]
        };
        self.items.iter().map(row).collect()
    }

    fn reservation_rows(&self) -> Vec<Vec<Value>> {
        let row = |(id, change): (&String, &ReservationChange)| {
            params![
                id,
                change.state as i32,
                change.lines.as_slice(),
                change.expire_millis
            ]
        };
        self.reservations.iter().map(row).collect()
    }
}
