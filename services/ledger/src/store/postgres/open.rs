//! Opening a PostgreSQL ledger: creating its tables, or refusing what is not one.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Connections, Held};
use crate::Error;
use crate::store::schema;

/// Writers that have not written for so long are forgotten: 30 days.
const FORGOTTEN_MILLIS: i64 = 30 * 24 * 3600 * 1000;

/// What an error means for the person who runs the process.
pub(super) fn explain(database: &str, error: sqlx::Error) -> Error {
    match error
        .as_database_error()
        .and_then(|error| error.code())
        .as_deref()
    {
        Some("53100") => Error::Full {
            database: database.to_owned(),
        },
        Some("XX001" | "XX002") => Error::Corrupt {
            database: database.to_owned(),
            detail: error.to_string(),
        },
        _ => error.into(),
    }
}

/// Creates the tables or checks them, and registers this writer. Returns the log id.
pub(super) async fn prepare(
    connections: &Connections,
    name: &str,
    schema_name: &str,
    writer: &str,
) -> Result<Arc<str>, Error> {
    let mut tx = connections.begin().await?;
    // Replicas that start together take turns.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sagamesh-ledger'), hashtext($1))")
        .bind(schema_name)
        .execute(&mut tx)
        .await?;
    sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE SCHEMA IF NOT EXISTS \"{schema_name}\""
    )))
    .execute(&mut tx)
    .await?;
    let tables: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = $1",
    )
    .bind(schema_name)
    .fetch_one(&mut tx)
    .await?;
    if tables == 0 {
        create(&mut tx).await?;
    }
    let log_id = check(&mut tx, name).await?;
    sqlx::query(
        "INSERT INTO ledger_writers (writer, session, seen) VALUES ($1, 1, CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT))",
    )
    .bind(writer)
    .execute(&mut tx)
    .await?;
    sqlx::query("DELETE FROM ledger_writers WHERE seen < CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT) - $1")
        .bind(FORGOTTEN_MILLIS)
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(log_id)
}

async fn create(tx: &mut Held) -> Result<(), Error> {
    for part in [
        schema::POSTGRES,
        schema::POSTGRES_LEASES,
        schema::POSTGRES_APPEND,
    ] {
        sqlx::raw_sql(part).execute(&mut *tx).await?;
    }
    sqlx::query(
        "INSERT INTO ledger_meta (key, value) VALUES ('schema_version', $1), ('usable_from', $2), ('log_id', $3)",
    )
    .bind(schema::POSTGRES_VERSION.to_string())
    .bind(schema::POSTGRES_USABLE_FROM.to_string())
    .bind(Uuid::now_v7().to_string())
    .execute(tx)
    .await?;
    Ok(())
}

async fn check(tx: &mut Held, name: &str) -> Result<Arc<str>, Error> {
    let corrupt = |detail: String| Error::Corrupt {
        database: name.to_owned(),
        detail,
    };
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT key, value FROM ledger_meta")
        .fetch_all(&mut *tx)
        .await
        .map_err(|error| corrupt(error.to_string()))?;
    let value = |key: &str| {
        rows.iter()
            .find(|(found, _)| found == key)
            .map(|(_, value)| value.as_str())
    };
    let number = |key: &str| value(key).and_then(|version| version.parse::<i64>().ok());
    let known = schema::POSTGRES_VERSION;
    match number("schema_version") {
        Some(found) if !schema::is_usable(found, number("usable_from"), known) => {
            return Err(Error::Newer {
                database: name.to_owned(),
                found,
                known,
            });
        }
        Some(found) if found >= known => {}
        Some(1) => {
            for part in [
                schema::POSTGRES_FROM_1,
                schema::POSTGRES_LEASES,
                schema::POSTGRES_APPEND,
            ] {
                sqlx::raw_sql(part).execute(&mut *tx).await?;
            }
        }
        _ => return Err(corrupt("it has no valid schema version".into())),
    }
    // Databases that were made before this was written down.
    sqlx::query(
        "INSERT INTO ledger_meta (key, value) VALUES ('usable_from', $1) ON CONFLICT DO NOTHING",
    )
    .bind(schema::POSTGRES_USABLE_FROM.to_string())
    .execute(tx)
    .await?;
    value("log_id")
        .map(Into::into)
        .ok_or_else(|| corrupt("it has no log id".into()))
}
