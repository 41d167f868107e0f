//! What happens when the coordinator starts: definitions and participants into memory, then every saga that has not ended.

use std::time::Duration;

use anyhow::Context as _;
use chassis::Env;
use ledger::sql::Dynamic;
use ledger::{ExecuteError, Ledger, StreamId, params};
use tokio::time::Instant;

use crate::config::Options;
use crate::decider::{Command, Coordinator, DEFINITION, PARTICIPANT, Reply, State, saga_stream};
use crate::dispatch::Dispatch;
use crate::hub::Settings;
use crate::projection;
use crate::registry::Registry;

/// Streams that are read together.
const TOGETHER: usize = 512;
/// How long the table of sagas may take to catch up with the log's tail.
const CATCH_UP: Duration = Duration::from_secs(600);

/// Fills the registry and the hub.
pub(crate) async fn recover(
    ledger: &Ledger<Coordinator>,
    dispatch: &Dispatch,
    registry: &Registry,
    options: &Options,
    env: &Env,
) -> anyhow::Result<()> {
    let started = Instant::now();
    for name in options.participants.iter().filter(|name| !name.is_empty()) {
        dispatch.with(|hub, _| hub.set_participant(name, Settings::default()));
    }
    load_kind(ledger, DEFINITION, |stream, state| {
        if let State::Definition(record) = state {
            registry.publish(stream.key(), record);
        }
    })
    .await?;
    load_kind(ledger, PARTICIPANT, |stream, state| {
        if let State::Participant(record) = state {
            dispatch.with(|hub, _| hub.set_participant(stream.key(), record.settings));
        }
    })
    .await?;
    // The tail of the log: what was committed and not yet in the table.
    ledger
        .wait_for_projection(projection::NAME, ledger.head(), CATCH_UP)
        .await
        .context("the table of sagas does not follow the log")?;
    let open = load_open(ledger, dispatch).await?;
    let seconds = started.elapsed().as_secs_f64();
    metrics::gauge!("saga_resume_seconds").set(seconds);
    tracing::info!(
        open,
        milliseconds = started.elapsed().as_millis(),
        at = env.clock.now_millis(),
        "resumed every saga that has not ended"
    );
    Ok(())
}

async fn load_kind(
    ledger: &Ledger<Coordinator>,
    kind: &str,
    mut take: impl FnMut(StreamId, State),
) -> anyhow::Result<()> {
    let prefix = format!("{kind}/");
    let mut after = String::new();
    loop {
        let streams = ledger.streams(&prefix, &after, TOGETHER).await?;
        let Some(last) = streams.last() else {
            return Ok(());
        };
        after = last.as_str().to_owned();
        for (stream, state, _) in ledger.load_many(&streams).await? {
            take(stream, state);
        }
    }
}

async fn load_open(ledger: &Ledger<Coordinator>, dispatch: &Dispatch) -> anyhow::Result<usize> {
    let mut after = String::new();
    let mut open = 0;
    let mut unreadable = 0_u32;
    loop {
        let sql = "SELECT saga_id FROM saga WHERE end_time IS NULL AND saga_id > $1 ORDER BY saga_id LIMIT $2";
        let rows = ledger
            .reader()
            .fetch_all(Dynamic(sql.to_owned()), params![&after, TOGETHER])
            .await?;
        let ids = rows
            .iter()
            .map(|row| row.get::<String>(0))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(last) = ids.last() else {
            metrics::gauge!("saga_unreadable").set(f64::from(unreadable));
            return Ok(open);
        };
        after.clone_from(last);
        // Through the committer: what is resumed is in its memory then, and the results that come next find it there.
        let resumed = ids.iter().map(|id| async move {
            let stream = saga_stream(id);
            let executed = ledger.execute(Command::Resume(stream.clone())).await;
            (stream, executed)
        });
        let mut states = Vec::with_capacity(ids.len());
        for (stream, executed) in futures_util::future::join_all(resumed).await {
            let executed = match executed {
                Err(ExecuteError::Storage(error)) if !error.0.is_transient() => {
                    tracing::error!(saga = stream.key(), %error, "an open saga is left alone: its record cannot be read");
                    unreadable += 1;
                    continue;
                }
                executed => executed.with_context(|| format!("{stream} cannot be resumed"))?,
            };
            if let Reply::Resumed(state) = executed.reply {
                states.push((stream, state));
            }
        }
        dispatch.with(|hub, now| {
            for (stream, state) in &states {
                hub.recovered(stream, state, now);
            }
        });
        open += states.len();
        tokio::task::yield_now().await;
    }
}
