//! What the read side is asked.

use ledger::sql::{Row, Sql};
use ledger::{Error, params};
use sagamesh_api::shop::payments::v1 as api;
use sagamesh_api::shop::v1::Money;

/// Most accounts that a trial balance lists.
pub const MAX_ACCOUNTS: u32 = 10_000;

/// One payment.
pub async fn payment(sql: &Sql, id: &str) -> Result<Option<api::Payment>, Error> {
    let row = sql
        .fetch_optional(
            "SELECT id, seq, customer_id, amount_minor, currency, state, decline_reason, create_millis, update_millis \
             FROM payments WHERE id = $1",
            params![id],
        )
        .await?;
    Ok(row
        .as_ref()
        .map(read)
        .transpose()?
        .map(|(_, payment)| payment))
}

/// Up to `limit` payments that began before the place `before`, newest first, each with its place.
pub async fn payments(
    sql: &Sql,
    customer_id: &str,
    before: u64,
    limit: u32,
) -> Result<Vec<(u64, api::Payment)>, Error> {
    let rows = if customer_id.is_empty() {
        sql.fetch_all(
            "SELECT id, seq, customer_id, amount_minor, currency, state, decline_reason, create_millis, update_millis \
             FROM payments WHERE seq < $1 ORDER BY seq DESC LIMIT $2",
            params![before, limit],
        )
        .await?
    } else {
        sql.fetch_all(
            "SELECT id, seq, customer_id, amount_minor, currency, state, decline_reason, create_millis, update_millis \
             FROM payments WHERE customer_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3",
            params![customer_id, before, limit],
        )
        .await?
    };
    rows.iter().map(read).collect()
}

/// All accounts, their sums and the position they were read at: ONE statement, so that it is one moment.
pub async fn trial_balance(sql: &Sql) -> Result<api::GetTrialBalanceResponse, Error> {
    let rows = sql
        .fetch_all(
            "SELECT CAST(0 AS BIGINT) AS kind, '' AS name, '' AS currency, position AS amount FROM books_position \
             UNION ALL \
             SELECT CAST(1 AS BIGINT), '', currency, CAST(SUM(balance) AS BIGINT) FROM accounts GROUP BY currency \
             UNION ALL \
             SELECT * FROM (SELECT CAST(2 AS BIGINT), name, currency, balance FROM accounts WHERE balance <> 0 \
             ORDER BY name, currency LIMIT $1) AS listed \
             ORDER BY 1, 2, 3",
            params![MAX_ACCOUNTS],
        )
        .await?;
    let mut response = api::GetTrialBalanceResponse {
        balanced: true,
        ..Default::default()
    };
    for row in &rows {
        let (kind, name, currency): (i64, String, String) =
            (row.get("kind")?, row.get("name")?, row.get("currency")?);
        if kind == 0 {
            response.position = row.get("amount")?;
            continue;
        }
        let amount = Money {
            minor_units: row.get("amount")?,
            currency,
        };
        if kind == 1 {
            response.balanced &= amount.minor_units == 0;
            response.sums.push(amount);
        } else {
            response.accounts.push(api::Account {
                name,
                balance: Some(amount),
            });
        }
    }
    Ok(response)
}

fn read(row: &Row) -> Result<(u64, api::Payment), Error> {
    let payment = api::Payment {
        payment_id: row.get("id")?,
        customer_id: row.get("customer_id")?,
        amount: Some(Money {
            minor_units: row.get("amount_minor")?,
            currency: row.get("currency")?,
        }),
        state: row.get("state")?,
        decline_reason: row.get("decline_reason")?,
        create_time: Some(chassis::timestamp::from_millis(row.get("create_millis")?)),
        update_time: Some(chassis::timestamp::from_millis(row.get("update_millis")?)),
    };
    Ok((row.get("seq")?, payment))
}
