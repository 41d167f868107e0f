//! What comes into memory: definitions and participants when the coordinator starts, and the open sagas of every shard that it takes.

use std::time::Duration;

use anyhow::Context as _;
use ledger::sql::Dynamic;
use ledger::{ExecuteError, Fence, Ledger, StreamId, params};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::Options;
use crate::decider::{
    Command, Coordinator, DEFINITION, PARTICIPANT, Rejection, Reply, State, saga_stream,
};
use crate::engine::Engine;
use crate::hub::Settings;
use crate::projection;

/// Streams that are read together.
const TOGETHER: usize = 512;
/// How long the table of sagas may take to catch up with the log's tail.
const CATCH_UP: Duration = Duration::from_secs(600);

/// The open sagas of a shard, a page at a time.
const OPEN: &str = "SELECT saga_id FROM saga WHERE shard = $1 AND end_time IS NULL AND saga_id > $2 ORDER BY saga_id LIMIT $3";

/// What became of a saga that was to be resumed.
#[derive(Debug, PartialEq, Eq)]
enum Resumed {
    /// Work on it goes on.
    Met,
    /// It was met before, it has ended, or another replica runs its shard by now.
    NotNeeded,
    /// Its record cannot be read.
    Unreadable(String),
}

/// Participants and definitions, as they are on record.
pub(crate) async fn load_registry(engine: &Engine) -> anyhow::Result<()> {
    let Options { participants, .. } = &*engine.options;
    for name in participants.iter().filter(|name| !name.is_empty()) {
        let dispatch = &engine.dispatch;
        dispatch.with(|hub, _| hub.set_participant(name, Settings::default()));
    }
    load_definitions(engine).await?;
    let take = |stream: StreamId, state, _| {
        if let State::Participant(record) = state {
            let dispatch = &engine.dispatch;
            dispatch.with(|hub, _| hub.set_participant(stream.key(), record.settings));
        }
    };
    let unread = |stream: StreamId, error| engine.left_alone(&stream, error);
    load_kind(&engine.ledger, PARTICIPANT, take, unread).await
}

/// All definitions.
pub(crate) async fn load_definitions(engine: &Engine) -> anyhow::Result<()> {
    let take = |stream: StreamId, state, version| {
        if let State::Definition(record) = state {
            engine.registry.publish(stream.key(), record, version);
        }
    };
    let unread = |stream: StreamId, error| engine.left_alone(&stream, error);
    load_kind(&engine.ledger, DEFINITION, take, unread).await
}

async fn load_kind(
    ledger: &Ledger<Coordinator>,
    kind: &str,
    mut take: impl FnMut(StreamId, State, u64),
    unread: impl Fn(StreamId, ledger::Error) -> Result<(), ledger::Error>,
) -> anyhow::Result<()> {
    let prefix = format!("{kind}/");
    let mut after = String::new();
    loop {
        let streams = ledger.streams(&prefix, &after, TOGETHER).await?;
        let Some(last) = streams.last() else {
            return Ok(());
        };
        after = last.as_str().to_owned();
        match ledger.load_many(&streams).await {
            Ok(loaded) => loaded
                .into_iter()
                .for_each(|(stream, state, version)| take(stream, state, version)),
            // One of them was written by a newer program, say: the others are loaded one by one.
            Err(error) if error.is_permanent() => {
                for stream in streams {
                    match ledger.load(&stream).await {
                        Ok((state, version)) => take(stream, state, version),
                        Err(error) => unread(stream, error)?,
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Engine {
    /// What this program cannot read of definitions and participants is left to one that can. Nothing is sent to such a participant: it may be paused.
    pub(crate) fn left_alone(
        &self,
        stream: &StreamId,
        error: ledger::Error,
    ) -> Result<(), ledger::Error> {
        if !error.is_permanent() {
            return Err(error);
        }
        tracing::error!(%stream, %error, "this record is left alone: it cannot be read");
        metrics::gauge!("saga_records_left_alone", "kind" => stream.kind().to_owned()).set(1.0);
        if stream.kind() == PARTICIPANT {
            let held = Settings {
                paused: true,
                ..Settings::default()
            };
            self.dispatch
                .with(|hub, _| hub.set_participant(stream.key(), held));
        }
        Ok(())
    }
}

/// Waits until the table of sagas has what is on record now.
pub(crate) async fn table_is_ready(engine: &Engine) -> anyhow::Result<()> {
    let newest = engine.ledger.newest().await?;
    let ready = engine
        .ledger
        .wait_for_projection(projection::NAME, newest, CATCH_UP);
    ready
        .await
        .context("the table of sagas does not follow the log")
}

/// Takes every open saga of a shard into memory, as far as it is still owned.
pub(crate) async fn resume_shard(engine: &Engine, fence: Fence) -> anyhow::Result<()> {
    let started = Instant::now();
    // Its sagas may run versions that were registered elsewhere a moment ago.
    if engine.ownership.is_shared() {
        load_definitions(engine).await?;
    }
    // The tail of the log: what was committed and not yet in the table.
    table_is_ready(engine).await?;
    let (mut after, mut open, mut unreadable) = (String::new(), 0_usize, 0_usize);
    while engine.ownership.fence(fence.shard) == Some(fence) {
        let ids = open_sagas(engine, fence.shard, &after).await?;
        let Some(last) = ids.last() else {
            break;
        };
        after.clone_from(last);
        let resuming = ids.iter().map(|id| resume(engine, fence.shard, id));
        for (id, resumed) in ids
            .iter()
            .zip(futures_util::future::join_all(resuming).await)
        {
            match resumed.with_context(|| format!("saga {id} cannot be resumed"))? {
                Resumed::Met => open += 1,
                Resumed::NotNeeded => {}
                Resumed::Unreadable(error) => {
                    tracing::error!(saga = id, %error, "an open saga is left alone: its record cannot be read");
                    unreadable += 1;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    let whole = engine.dispatch.with(|hub, _| {
        // Under this lock: whoever takes the shard anew tells the hub before it owns it.
        let whole = engine.ownership.fence(fence.shard) == Some(fence);
        if whole {
            hub.resumed(fence.shard, unreadable);
        }
        whole
    });
    if !whole {
        tracing::info!(
            shard = fence.shard,
            epoch = fence.epoch,
            "a shard was given up before all of its sagas were read"
        );
        return Ok(());
    }
    metrics::gauge!("saga_resume_seconds").set(started.elapsed().as_secs_f64());
    tracing::info!(
        shard = fence.shard,
        epoch = fence.epoch,
        open,
        milliseconds = started.elapsed().as_millis(),
        "resumed every saga that has not ended"
    );
    Ok(())
}

/// Looks for open sagas that memory has missed, again and again, as long as the process runs: there should be none.
pub(crate) async fn run_scan(engine: Engine) {
    let token = engine.tasks.token();
    let found = metrics::counter!("saga_found_open_total");
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(engine.options.scan_interval) => {}
            () = token.cancelled() => return,
        }
        let held = engine.ownership.held().into_iter();
        // What is still being read has not been missed.
        let resumed = |fence: &Fence| engine.dispatch.look(|hub, _| hub.is_resumed(fence.shard));
        for fence in held.filter(resumed) {
            match scan(&engine, fence).await {
                Ok(0) => {}
                Ok(count) => {
                    tracing::warn!(
                        count,
                        shard = fence.shard,
                        "open sagas had been missed; they go on"
                    );
                    found.increment(count);
                }
                Err(error) => {
                    tracing::warn!(%error, "open sagas could not be looked for; it is tried again")
                }
            }
        }
    }
}

async fn scan(engine: &Engine, fence: Fence) -> anyhow::Result<u64> {
    let (mut after, mut found) = (String::new(), 0);
    while engine.ownership.fence(fence.shard) == Some(fence) {
        let ids = open_sagas(engine, fence.shard, &after).await?;
        let Some(last) = ids.last() else {
            break;
        };
        after.clone_from(last);
        for id in &ids {
            if !engine.is_open(&saga_stream(id)) {
                let resumed = resume(engine, fence.shard, id).await?;
                found += u64::from(resumed == Resumed::Met);
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(found)
}

async fn open_sagas(engine: &Engine, shard: i64, after: &str) -> anyhow::Result<Vec<String>> {
    let rows = engine
        .ledger
        .reader()
        .fetch_all(Dynamic(OPEN.to_owned()), params![shard, after, TOGETHER])
        .await?;
    let ids = rows.iter().map(|row| row.get::<String>(0));
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Through the committer: what is resumed is in its memory then. What happens to the saga in the same batch the hub sees before the answer.
async fn resume(engine: &Engine, shard: i64, id: &str) -> anyhow::Result<Resumed> {
    let stream = saga_stream(id);
    let (sender, answer) = oneshot::channel();
    let dispatch = engine.dispatch.clone();
    dispatch.with(|hub, _| hub.resuming(shard, &stream));
    let command = Command::Resume(stream.clone());
    engine.ledger.post_with(command, move |outcome| {
        let resumed = outcome.map(|executed| match executed.reply {
            Reply::Resumed(state) => match state.fault() {
                Some(fault) => Resumed::Unreadable(fault.to_string()),
                None if dispatch.with(|hub, now| hub.resume(shard, &stream, &state, now)) => {
                    Resumed::Met
                }
                None => Resumed::NotNeeded,
            },
            _ => Resumed::NotNeeded,
        });
        // Nobody waits when the process stops.
        drop(sender.send(resumed));
    });
    match answer.await.unwrap_or(Err(ExecuteError::Unavailable)) {
        Ok(resumed) => Ok(resumed),
        Err(ExecuteError::Storage(error)) if !error.0.is_transient() => {
            Ok(Resumed::Unreadable(error.to_string()))
        }
        // All definitions were read a moment ago: a newer replica's, perhaps. The scan asks again.
        Err(ExecuteError::Rejected(unprepared @ Rejection::Unprepared)) => {
            Ok(Resumed::Unreadable(unprepared.to_string()))
        }
        Err(error) => Err(anyhow::anyhow!("{error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use chassis::{Env, Tasks};
    use ledger::{CommitterOptions, StoreConfig};

    use sagamesh_api::saga::v1::{Definition, Delay, Phase, Step, step};

    use super::*;
    use crate::ownership::{self, Ownership};
    use crate::projection::SagaTable;
    use crate::saga;

    async fn plan(config: StoreConfig, explain: &str) -> String {
        let tasks = Tasks::new();
        let env = Env::system();
        let ledger = Ledger::open(
            config,
            Coordinator::new(Arc::default(), Ownership::alone(&env)),
            (),
            vec![Box::new(SagaTable::default())],
            &env,
            &tasks,
            CommitterOptions::default(),
        )
        .await
        .expect("open");
        let sql = OPEN
            .replace("$1", "3")
            .replace("$2", "'s-7'")
            .replace("$3", "512");
        let rows = ledger
            .reader()
            .fetch_all(Dynamic(format!("{explain} {sql}")), params![])
            .await
            .expect("a plan");
        let column = if explain == "EXPLAIN" { 0 } else { 3 };
        let lines = rows
            .iter()
            .map(|row| row.get::<String>(column).expect("a line"));
        let plan = lines.collect::<Vec<_>>().join("\n");
        tasks
            .shutdown(Duration::from_secs(5))
            .await
            .expect("stopped");
        ledger.close().await;
        plan
    }

    /// A definition without participants.
    fn delay() -> Definition {
        let step = Step {
            name: "wait".to_owned(),
            phase: Phase::ReadOnly.into(),
            kind: Some(step::Kind::Delay(Delay {
                duration: Some(chassis::timestamp::duration_from_millis(3_600_000)),
            })),
            ..Step::default()
        };
        Definition {
            name: "delay".to_owned(),
            steps: vec![step],
            ..Definition::default()
        }
    }

    #[tokio::test]
    async fn an_open_saga_that_memory_has_missed_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let process = chassis::Process::for_test("coordinator");
        let config = crate::Config {
            chassis: process.config.clone(),
            store: StoreConfig::sqlite(dir.path(), "coordinator"),
            options: Options {
                scan_interval: Duration::from_millis(10),
                ..Options::default()
            },
        };
        let opened = crate::open(&config, &process).await.expect("open");
        let engine = &opened.engine;
        let plan = engine.registry.intern(&delay()).expect("a definition");
        let register = crate::registry::DefinitionChange::Register(Arc::clone(&plan));
        let definition = StreamId::of(DEFINITION, "delay");
        let registered = engine.change(Command::Definition(definition, register));
        registered.await.expect("registered");
        let stream = saga_stream("s");
        let start = saga::Start::plain(&plan);
        let start = saga::Command::Start(Box::new(start));
        let started = engine.ask(stream.clone(), start, false).await;
        started.expect("started");
        engine.dispatch.with(|hub, _| {
            hub.forget(ownership::ONLY);
            hub.hold(ownership::ONLY, HashSet::new());
            hub.resumed(ownership::ONLY, 0);
        });
        assert!(!engine.is_open(&stream));
        let found = async {
            while !engine.is_open(&stream) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found)
            .await
            .expect("found");
        let next = engine.dispatch.look(|hub, _| hub.next_timer());
        assert!(next.is_some(), "its time is waited for again");
        process
            .tasks
            .shutdown(Duration::from_secs(5))
            .await
            .expect("stopped");
        opened.ledger.close().await;
    }

    #[tokio::test]
    async fn the_open_sagas_of_one_shard_are_found_by_an_index_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let sqlite = StoreConfig::sqlite(dir.path(), "coordinator");
        let sqlite = plan(sqlite, "EXPLAIN QUERY PLAN").await;
        assert!(
            sqlite.contains("INDEX saga_open (shard=? AND saga_id>?)"),
            "{sqlite}"
        );
        assert!(!sqlite.contains("TEMP B-TREE"), "{sqlite}");
        let Some(postgres) = ledger::testing::postgres().await else {
            return;
        };
        let postgres = StoreConfig::postgres(postgres.database().await, "coordinator");
        let postgres = plan(postgres, "EXPLAIN").await;
        assert!(postgres.contains("saga_open on saga"), "{postgres}");
        assert!(!postgres.contains("Sort"), "{postgres}");
    }
}
