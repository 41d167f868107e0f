//! Reading orders.

use chassis::{Problem, page};
use ledger::params;
use ledger::sql::{Row, Sql};
use sagamesh_api::shop::orders::v1::{ListOrdersRequest, ListOrdersResponse, Order, OrderStatus};

use crate::errors::{ERRORS, storage};
use crate::projection::order_from;

/// Orders on a page unless the request says otherwise, and at most.
const PAGE: (u32, u32) = (50, 500);

/// Queries on the read side.
#[derive(Clone)]
pub(crate) struct Queries {
    sql: Sql,
}

/// An order that is not settled, for whoever looks after those.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) order_id: String,
    pub(crate) updated: i64,
}

impl Queries {
    pub(crate) fn new(sql: Sql) -> Self {
        Self { sql }
    }

    /// An order, if the read side has it.
    pub(crate) async fn get(&self, order_id: &str) -> Result<Option<Order>, Problem> {
        let sql = "SELECT data FROM orders WHERE order_id = $1";
        let row = self
            .sql
            .fetch_optional(sql, params![order_id])
            .await
            .map_err(|error| storage(&error))?;
        row.as_ref()
            .map(order)
            .transpose()
            .map_err(|error| storage(&error))
    }

    /// A page, newest first: ids are time-ordered.
    pub(crate) async fn list(
        &self,
        request: &ListOrdersRequest,
    ) -> Result<ListOrdersResponse, Problem> {
        let size = page::page_size(ERRORS, request.page_size, PAGE.0, PAGE.1)?;
        let Ok(status) = OrderStatus::try_from(request.status) else {
            return Err(ERRORS.invalid_field("status", "is no status of an order"));
        };
        let filter = format!("{}\u{0}{}", request.customer_id, request.status);
        let after = page::decode_token(ERRORS, &filter, &request.page_token)?
            .map(|cursor| {
                String::from_utf8(cursor)
                    .map_err(|_| ERRORS.invalid_field("page_token", "is not one of ours"))
            })
            .transpose()?
            // Above every id, which is hexadecimal, in any collation.
            .unwrap_or_else(|| "g".to_owned());
        let limit = i64::from(size) + 1;
        let customer = request.customer_id.as_str();
        let rows = match (customer.is_empty(), status) {
            (true, OrderStatus::Unspecified) => {
                let sql = "SELECT data FROM orders WHERE order_id < $1 ORDER BY order_id DESC LIMIT $2";
                self.sql.fetch_all(sql, params![after, limit]).await
            }
            (true, _) => {
                let sql = "SELECT data FROM orders WHERE order_id < $1 AND status = $3 ORDER BY order_id DESC LIMIT $2";
                self.sql.fetch_all(sql, params![after, limit, request.status]).await
            }
            (false, OrderStatus::Unspecified) => {
                let sql = "SELECT data FROM orders WHERE order_id < $1 AND customer_id = $3 ORDER BY order_id DESC LIMIT $2";
                self.sql.fetch_all(sql, params![after, limit, customer]).await
            }
            (false, _) => {
                let sql = "SELECT data FROM orders WHERE order_id < $1 AND customer_id = $3 AND status = $4 \
                           ORDER BY order_id DESC LIMIT $2";
                self.sql.fetch_all(sql, params![after, limit, customer, request.status]).await
            }
        }
        .map_err(|error| storage(&error))?;
        let mut orders = rows
            .iter()
            .map(order)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| storage(&error))?;
        let mut next_page_token = String::new();
        if orders.len() > size as usize {
            orders.truncate(size as usize);
            let last = orders.last().map_or("", |order| order.order_id.as_str());
            next_page_token = page::encode_token(&filter, last.as_bytes());
        }
        Ok(ListOrdersResponse {
            orders,
            next_page_token,
        })
    }

    /// Up to `limit` orders that are pending or being refunded, in the order of their ids, after this id.
    pub(crate) async fn open(&self, after: &str, limit: usize) -> Result<Vec<Open>, ledger::Error> {
        let mut open = Vec::new();
        for status in [OrderStatus::Pending, OrderStatus::Refunding] {
            let sql = "SELECT order_id, updated FROM orders WHERE status = $1 AND order_id > $2 ORDER BY order_id LIMIT $3";
            for row in self
                .sql
                .fetch_all(sql, params![i32::from(status), after, limit])
                .await?
            {
                open.push(Open {
                    order_id: row.get("order_id")?,
                    updated: row.get("updated")?,
                });
            }
        }
        open.sort_by(|one, other| one.order_id.cmp(&other.order_id));
        open.truncate(limit);
        Ok(open)
    }
}

fn order(row: &Row) -> Result<Order, ledger::Error> {
    order_from(&row.get::<Vec<u8>>("data")?)
}
