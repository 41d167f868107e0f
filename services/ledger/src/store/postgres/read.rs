//! What the committer and others read of streams.

use sqlx::Row as _;

use super::{Connections, PostgresStore};
use crate::store::Loaded;
use crate::{Error, StreamId};

const LOAD: &str = "SELECT e.stream, e.version, e.type, e.data FROM unnest($1::text[], $2::bigint[]) AS x (stream, after) \
    CROSS JOIN LATERAL (SELECT * FROM ledger_events e WHERE e.stream = x.stream AND e.version > x.after ORDER BY e.version) e";

impl PostgresStore {
    pub(super) async fn load_streams(
        &self,
        connections: &Connections,
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
        let at: std::collections::HashMap<&str, usize> = streams
            .iter()
            .enumerate()
            .map(|(at, stream)| (stream.as_str(), at))
            .collect();
        let names: Vec<&str> = streams.iter().map(StreamId::as_str).collect();
        let mut connection = connections.acquire().await?;
        // Snapshots only ever move forward and events never go: two statements may see different moments.
        if snapshots {
            let rows = sqlx::query(
                "SELECT stream, version, data FROM ledger_snapshots WHERE stream = ANY($1)",
            )
            .bind(&names)
            .fetch_all(&mut connection)
            .await?;
            for row in rows {
                loaded[at[row.try_get::<&str, _>(0)?]].snapshot =
                    Some((row.try_get::<i64, _>(1)? as u64, row.try_get(2)?));
            }
        }
        let after = |loaded: &Loaded| {
            loaded
                .snapshot
                .as_ref()
                .map_or(0, |(version, _)| *version as i64)
        };
        let after: Vec<i64> = loaded.iter().map(after).collect();
        for row in sqlx::query(LOAD)
            .bind(&names)
            .bind(after)
            .fetch_all(&mut connection)
            .await?
        {
            let event = (
                row.try_get::<i64, _>(1)? as u64,
                row.try_get(2)?,
                row.try_get(3)?,
            );
            loaded[at[row.try_get::<&str, _>(0)?]].events.push(event);
        }
        Ok(loaded)
    }
}
