//! What is read from a SQLite file, on connections of the ledger's own.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, Row as _, SqlitePool};

use super::{SqliteStore, statement};
use crate::sql::Dynamic;
use crate::store::{EventRest, Loaded};
use crate::{Error, Recorded, StreamId};

impl SqliteStore {
    pub(super) async fn load_streams(
        &self,
        pool: &SqlitePool,
        streams: &[StreamId],
        snapshots: bool,
    ) -> Result<Vec<Loaded>, Error> {
        let mut loaded: Vec<Loaded> = streams
            .iter()
            .map(|stream| Loaded {
                stream: stream.clone(),
                snapshot: None,
                events: Vec::new(),
            })
            .collect();
        let mut connection = pool.acquire().await?;
        for chunk in loaded.chunks_mut(64) {
            let index: HashMap<StreamId, usize> = chunk
                .iter()
                .enumerate()
                .map(|(at, loaded)| (loaded.stream.clone(), at))
                .collect();
            if snapshots {
                let mut arguments = SqliteArguments::default();
                for loaded in chunk.iter() {
                    arguments
                        .add(loaded.stream.shared())
                        .map_err(sqlx::Error::Encode)?;
                }
                let sql = format!(
                    "SELECT stream, version, data FROM ledger_snapshots WHERE stream IN ({})",
                    statement::marks(padded(&mut arguments, chunk.len())?, 1)
                );
                for row in sqlx::query_with(Dynamic(sql), arguments)
                    .fetch_all(&mut *connection)
                    .await?
                {
                    let at = index[&StreamId::from(row.try_get::<&str, _>(0)?)];
                    chunk[at].snapshot = Some((row.try_get::<i64, _>(1)? as u64, row.try_get(2)?));
                }
            }
            let mut arguments = SqliteArguments::default();
            let rows = [1, 4, 16, 64]
                .into_iter()
                .find(|size| *size >= chunk.len())
                .unwrap_or(64);
            for at in 0..rows {
                let one = chunk.get(at);
                arguments
                    .add(one.map(|loaded| loaded.stream.as_str()))
                    .map_err(sqlx::Error::Encode)?;
                let after = one
                    .and_then(|loaded| loaded.snapshot.as_ref())
                    .map_or(0, |(version, _)| *version);
                arguments.add(after as i64).map_err(sqlx::Error::Encode)?;
            }
            let sql = format!(
                "WITH want (stream, after) AS (VALUES {}) SELECT e.stream, e.version, e.type, e.data FROM want \
                 CROSS JOIN ledger_events e ON e.stream = want.stream AND e.version > want.after ORDER BY e.stream, e.version",
                statement::marks(rows, 2)
            );
            for row in sqlx::query_with(Dynamic(sql), arguments)
                .fetch_all(&mut *connection)
                .await?
            {
                let at = index[&StreamId::from(row.try_get::<&str, _>(0)?)];
                chunk[at].events.push((
                    row.try_get::<i64, _>(1)? as u64,
                    row.try_get(2)?,
                    row.try_get(3)?,
                ));
            }
        }
        Ok(loaded)
    }

    pub(super) async fn read_tail(
        &self,
        stream: &StreamId,
        after: u64,
    ) -> Result<Vec<EventRest>, Error> {
        let rows = sqlx::query_as::<_, (i64, String, Vec<u8>)>(
            "SELECT version, type, data FROM ledger_events WHERE stream = $1 AND version > $2 ORDER BY version",
        )
        .bind(stream.as_str())
        .bind(after as i64)
        .fetch_all(&self.reads)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(version, type_name, data)| (version as u64, type_name, data))
            .collect())
    }

    pub(super) async fn load_inbox(
        &self,
        keys: &[Arc<str>],
    ) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut found = Vec::new();
        let possible: Vec<&Arc<str>> = keys
            .iter()
            .filter(|key| self.filter.may_contain(key))
            .collect();
        if possible.is_empty() {
            return Ok(found);
        }
        let mut connection = self.loads.acquire().await?;
        for chunk in possible.chunks(64) {
            let mut arguments = SqliteArguments::default();
            for key in chunk {
                arguments
                    .add(Arc::clone(key))
                    .map_err(sqlx::Error::Encode)?;
            }
            let sql = format!(
                "SELECT key, value FROM ledger_inbox WHERE key IN ({})",
                statement::marks(padded(&mut arguments, chunk.len())?, 1)
            );
            for row in sqlx::query_with(Dynamic(sql), arguments)
                .fetch_all(&mut *connection)
                .await?
            {
                found.push((row.try_get(0)?, row.try_get(1)?));
            }
        }
        Ok(found)
    }

    pub(super) async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<Recorded>, Error> {
        let rows = sqlx::query(
                "SELECT position, stream, version, type, data, commit_time FROM ledger_events WHERE position > $1 ORDER BY position LIMIT $2",
            )
            .bind(after as i64)
            .bind(limit as i64)
            .fetch_all(&self.reads)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Recorded {
                    position: row.try_get::<i64, _>(0)? as u64,
                    stream: StreamId::from(row.try_get::<&str, _>(1)?),
                    version: row.try_get::<i64, _>(2)? as u64,
                    type_name: row.try_get::<String, _>(3)?.into(),
                    data: row.try_get::<&[u8], _>(4)?.into(),
                    commit_millis: row.try_get(5)?,
                })
            })
            .collect()
    }
}

/// NULLs up to the next of a few sizes, so that few statements are prepared; returns that size.
fn padded(arguments: &mut SqliteArguments, count: usize) -> Result<usize, Error> {
    let size = [1, 4, 16, 64]
        .into_iter()
        .find(|size| *size >= count)
        .unwrap_or(count);
    for _ in count..size {
        arguments.add(None::<String>).map_err(sqlx::Error::Encode)?;
    }
    Ok(size)
}
