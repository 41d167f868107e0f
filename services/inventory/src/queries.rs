//! What the read side is asked.

use ledger::sql::{Dynamic, Row, Sql, Value};
use ledger::{Error, params};
use prost::Message as _;
use sagamesh_api::shop::inventory::v1 as api;

use crate::decider::api_item;
use crate::domain::Item;

const COLUMNS: &str =
    "sku, name, available, reserved, committed, price_minor, currency, version, update_millis";

/// One item.
pub async fn item(sql: &Sql, sku: &str) -> Result<Option<api::Item>, Error> {
    let query = format!("SELECT {COLUMNS} FROM items WHERE sku = $1");
    sql.fetch_optional(Dynamic(query), params![sku])
        .await?
        .as_ref()
        .map(read_item)
        .transpose()
}

/// Up to `limit` items after `after`, by SKU.
pub async fn items(sql: &Sql, after: &str, limit: u32) -> Result<Vec<api::Item>, Error> {
    let query = format!("SELECT {COLUMNS} FROM items WHERE sku > $1 ORDER BY sku LIMIT $2");
    sql.fetch_all(Dynamic(query), params![after, limit])
        .await?
        .iter()
        .map(read_item)
        .collect()
}

/// Those of these items that exist, all seen at one moment.
pub async fn these_items(sql: &Sql, skus: &[&str]) -> Result<Vec<api::Item>, Error> {
    let places: Vec<String> = (1..=skus.len()).map(|place| format!("${place}")).collect();
    let query = format!(
        "SELECT {COLUMNS} FROM items WHERE sku IN ({})",
        places.join(", ")
    );
    let params = skus.iter().map(|sku| Value::from(*sku)).collect();
    sql.fetch_all(Dynamic(query), params)
        .await?
        .iter()
        .map(read_item)
        .collect()
}

/// One reservation.
pub async fn reservation(sql: &Sql, id: &str) -> Result<Option<api::Reservation>, Error> {
    let row = sql
        .fetch_optional(
            "SELECT id, state, lines, expire_millis FROM reservations WHERE id = $1",
            params![id],
        )
        .await?;
    row.as_ref().map(read_reservation).transpose()
}

/// A reservation that is to be asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its id, which is its saga's.
    pub id: String,
    /// When it expired.
    pub expire_millis: i64,
}

/// Up to `limit` held reservations that expired by `now_millis`, oldest first, after the place `after`.
pub async fn due(sql: &Sql, now_millis: i64, after: &Due, limit: u32) -> Result<Vec<Due>, Error> {
    let rows = sql
        .fetch_all(
            "SELECT id, expire_millis FROM reservations WHERE state = $1 AND expire_millis <= $2 \
             AND (expire_millis > $3 OR (expire_millis = $3 AND id > $4)) ORDER BY expire_millis, id LIMIT $5",
            params![api::ReservationState::Held as i32, now_millis, after.expire_millis, &after.id, limit],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Due {
                id: row.get("id")?,
                expire_millis: row.get("expire_millis")?,
            })
        })
        .collect()
}

fn read_item(row: &Row) -> Result<api::Item, Error> {
    let sku: String = row.get("sku")?;
    let item = Item {
        name: row.get("name")?,
        currency: row.get("currency")?,
        price_minor: row.get("price_minor")?,
        available: row.get("available")?,
        reserved: row.get("reserved")?,
        committed: row.get("committed")?,
    };
    Ok(api_item(
        &sku,
        &item,
        row.get("version")?,
        row.get("update_millis")?,
    ))
}

fn read_reservation(row: &Row) -> Result<api::Reservation, Error> {
    let lines: Vec<u8> = row.get("lines")?;
    let type_name = "shop.inventory.v1.ReservationMade";
    let made = api::ReservationMade::decode(lines.as_slice())
        .map_err(|error| Error::decode(type_name, error))?;
    Ok(api::Reservation {
        reservation_id: row.get("id")?,
        lines: made.lines,
        state: row.get("state")?,
        expire_time: made.expire_time,
    })
}
