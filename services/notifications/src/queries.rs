//! Reading notifications.

use chassis::{Domain, Problem, page};
use ledger::params;
use ledger::sql::{Dynamic, Row, Sql, Value};
use sagamesh_api::shop::notifications::v1::{
    ListNotificationsRequest, ListNotificationsResponse, Notification,
};

use crate::projection::notification_from;

/// Domain of the errors of this service.
const ERRORS: Domain = Domain("notifications.sagamesh");
/// Notifications on a page unless the request says otherwise, and at most.
const PAGE: (u32, u32) = (50, 500);

/// Queries on the read side.
#[derive(Clone)]
pub(crate) struct Queries {
    sql: Sql,
}

impl Queries {
    pub(crate) fn new(sql: Sql) -> Self {
        Self { sql }
    }

    /// A page, newest first.
    pub(crate) async fn list(
        &self,
        request: &ListNotificationsRequest,
    ) -> Result<ListNotificationsResponse, Problem> {
        let size = page::page_size(ERRORS, request.page_size, PAGE.0, PAGE.1)?;
        let filter = format!("{}\u{0}{}", request.order_id, request.customer_id);
        let cursor = page::decode_token(ERRORS, &filter, &request.page_token)?
            .as_deref()
            .map(read_cursor)
            .transpose()?;
        let mut sql = "SELECT data FROM notifications WHERE 1 = 1".to_owned();
        let mut values: Vec<Value> = Vec::new();
        let mut condition = |text: &str, added: Vec<Value>| {
            let mut text = text.to_owned();
            for value in added {
                values.push(value);
                text = text.replacen('?', &format!("${}", values.len()), 1);
            }
            sql.push_str(&text);
        };
        if !request.order_id.is_empty() {
            condition(" AND order_id = ?", params![&request.order_id]);
        }
        if !request.customer_id.is_empty() {
            condition(" AND customer_id = ?", params![&request.customer_id]);
        }
        if let Some((created, id)) = cursor {
            condition(
                " AND (created, notification_id) < (?, ?)",
                params![created, id],
            );
        }
        condition(
            " ORDER BY created DESC, notification_id DESC LIMIT ?",
            params![i64::from(size) + 1],
        );
        let rows = self
            .sql
            .fetch_all(Dynamic(sql), values)
            .await
            .map_err(|error| storage(&error))?;
        let mut notifications = rows
            .iter()
            .map(notification)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| storage(&error))?;
        let mut next_page_token = String::new();
        if notifications.len() > size as usize {
            notifications.truncate(size as usize);
            next_page_token = notifications.last().map_or_else(String::new, |last| {
                page::encode_token(&filter, &cursor_of(last))
            });
        }
        Ok(ListNotificationsResponse {
            notifications,
            next_page_token,
        })
    }

    /// Ids of up to `limit` notifications that are owed and were recorded before a time, after this id.
    pub(crate) async fn owed(
        &self,
        before_millis: i64,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, ledger::Error> {
        let sql = "SELECT notification_id FROM notifications WHERE state = 1 AND created <= $1 AND notification_id > $2 \
                   ORDER BY notification_id LIMIT $3";
        let rows = self
            .sql
            .fetch_all(sql, params![before_millis, after, limit])
            .await?;
        rows.iter().map(|row| row.get("notification_id")).collect()
    }
}

fn notification(row: &Row) -> Result<Notification, ledger::Error> {
    notification_from(&row.get::<Vec<u8>>("data")?)
}

fn cursor_of(last: &Notification) -> Vec<u8> {
    let created = last
        .create_time
        .as_ref()
        .map_or(0, chassis::timestamp::to_millis);
    [&created.to_be_bytes()[..], last.notification_id.as_bytes()].concat()
}

fn read_cursor(cursor: &[u8]) -> Result<(i64, String), Problem> {
    let invalid = || {
        ERRORS.invalid_field(
            "page_token",
            "is not a token of this service: start from the first page, without a token",
        )
    };
    let (created, id) = cursor.split_first_chunk::<8>().ok_or_else(invalid)?;
    let id = String::from_utf8(id.to_vec()).map_err(|_| invalid())?;
    Ok((i64::from_be_bytes(*created), id))
}

fn storage(error: &ledger::Error) -> Problem {
    ERRORS.storage(error.is_transient(), error)
}
