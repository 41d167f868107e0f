//! Streams that leave the log.

use super::{Dialect, Dynamic, Tx};
use crate::{Error, StreamId, params};

/// Each by an index. What the newest position is, PostgreSQL's log counts; SQLite's ends with it.
const NEWEST_SQLITE: &str = "SELECT stream FROM ledger_events ORDER BY position DESC LIMIT 1";
const NEWEST_POSTGRES: &str = "SELECT stream FROM ledger_events WHERE shard = 0 \
    AND position = (SELECT head FROM ledger_shards WHERE shard = 0)";

impl Tx {
    /// Deletes whole streams, of which nothing is written any more. The one with the newest event of the log stays and is returned: whoever follows the
    /// log, or counts its positions, gets as far as that. It can leave once there are newer events.
    pub async fn delete_streams(
        &mut self,
        streams: &[StreamId],
    ) -> Result<Option<StreamId>, Error> {
        let newest = match self.dialect() {
            Dialect::Sqlite => NEWEST_SQLITE,
            Dialect::Postgres => NEWEST_POSTGRES,
        };
        let newest = self.fetch_optional(newest, params![]).await?;
        let newest = newest.map(|row| row.get::<String>(0)).transpose()?;
        let (mut kept, mut leaving) = (None, Vec::with_capacity(streams.len()));
        for stream in streams {
            match newest.as_deref() == Some(stream.as_str()) {
                true => kept = Some(stream.clone()),
                false => leaving.extend(params![stream]),
            }
        }
        if leaving.is_empty() {
            return Ok(kept);
        }
        let marks: Vec<String> = (1..=leaving.len()).map(|at| format!("${at}")).collect();
        for table in ["ledger_events", "ledger_snapshots"] {
            let sql = format!("DELETE FROM {table} WHERE stream IN ({})", marks.join(", "));
            self.execute(Dynamic(sql), leaving.clone()).await?;
        }
        Ok(kept)
    }
}
