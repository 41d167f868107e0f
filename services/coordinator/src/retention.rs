//! Ended sagas leave after their definition's retention, a few at a time.

use chassis::timestamp;
use ledger::sql::{Dynamic, Tx};
use ledger::{BoxFuture, Error, params};

use crate::decider::saga_stream;
use crate::engine::Engine;
use crate::projection::decode;

/// Sagas that are deleted in one transaction: commits wait for it.
const AT_ONCE: usize = 32;

/// Deletes ended sagas whose retention is over, until it is told to stop.
pub(crate) async fn run(engine: Engine) {
    let token = engine.tasks.token();
    let deleted = metrics::counter!("saga_deleted_total");
    loop {
        let swept = match engine.leads() {
            true => sweep(&engine).await,
            false => Ok(0),
        };
        let pause = match swept {
            Ok(0) => engine.options.retention_interval,
            Ok(count) => {
                deleted.increment(count as u64);
                std::time::Duration::from_millis(5)
            }
            Err(error) => {
                tracing::warn!(%error, "ended sagas could not be deleted; it is tried again");
                engine.options.retention_interval
            }
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            () = token.cancelled() => return,
        }
    }
}

async fn sweep(engine: &Engine) -> Result<usize, Error> {
    let now = engine.env.clock.now_millis();
    let sql =
        "SELECT saga_id, summary FROM saga WHERE expire_time <= $1 ORDER BY expire_time LIMIT $2";
    let rows = engine
        .ledger
        .reader()
        .fetch_all(Dynamic(sql.to_owned()), params![now, AT_ONCE])
        .await?;
    let mut expired = Vec::with_capacity(rows.len());
    for row in rows {
        expired.push((row.get::<String>(0)?, row.get::<Vec<u8>>(1)?));
    }
    if expired.is_empty() {
        return Ok(0);
    }
    engine
        .ledger
        .transact(|tx| -> BoxFuture<'_, Result<usize, Error>> { Box::pin(delete(tx, expired)) })
        .await
}

async fn delete(tx: &mut Tx, expired: Vec<(String, Vec<u8>)>) -> Result<usize, Error> {
    let streams: Vec<_> = expired.iter().map(|(id, _)| saga_stream(id)).collect();
    // It leaves with a later sweep.
    let kept = tx.delete_streams(&streams).await?;
    let mut count = 0;
    for ((saga_id, summary), stream) in expired.iter().zip(streams) {
        if Some(stream) == kept {
            continue;
        }
        let saga = decode(summary)?;
        let start = saga.start_time.as_ref().map_or(0, timestamp::to_millis);
        for (name, value) in &saga.search_attributes {
            let sql = "DELETE FROM saga_attribute WHERE name = $1 AND value = $2 AND start_time = $3 AND saga_id = $4";
            tx.execute(sql, params![name, value, start, saga_id])
                .await?;
        }
        tx.execute("DELETE FROM saga WHERE saga_id = $1", params![saga_id])
            .await?;
        count += 1;
    }
    Ok(count)
}
