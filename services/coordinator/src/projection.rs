//! The table of sagas: what lists, recovery and retention read. It follows the log.

use std::collections::{BTreeMap, HashMap};

use chassis::timestamp;
use ledger::sql::{Dialect, Tx, Value};
use ledger::{BoxFuture, Error, Recorded, params};
use prost::Message as _;
use sagamesh_api::saga::v1::{
    self as pb, Direction, Phase, SagaEvent, SagaState, StepState, StepStatus, transition::Kind,
};

use crate::decider::{SAGA, SAGA_EVENT};

/// Name of the projection.
pub const NAME: &str = "sagas";

/// Open sagas whose rows are kept in memory.
const KEPT: usize = 20_000;

/// The tables. On SQLite rows live in the primary key's own tree, which halves what a saga costs. Ids are in the order of their bytes, as pages that are
/// merged here have them: PostgreSQL's databases have orders of their own.
macro_rules! schema {
    ($in_key:literal, $by_bytes:literal) => {
        &[
            concat!(
                "CREATE TABLE saga (
                    saga_id         TEXT ",
                $by_bytes,
                " PRIMARY KEY,
                    shard           BIGINT NOT NULL,
                    definition      TEXT NOT NULL,
                    definition_hash TEXT NOT NULL,
                    state           BIGINT NOT NULL,
                    start_time      BIGINT NOT NULL,
                    end_time        BIGINT,
                    expire_time     BIGINT,
                    attention       BIGINT NOT NULL,
                    summary         BLOB NOT NULL
                )",
                $in_key
            ),
            "CREATE INDEX saga_by_start ON saga (start_time, saga_id)",
            "CREATE INDEX saga_by_state ON saga (definition, state, start_time, saga_id)",
            "CREATE INDEX saga_open ON saga (shard, saga_id) WHERE end_time IS NULL",
            "CREATE INDEX saga_expired ON saga (expire_time) WHERE expire_time IS NOT NULL",
            "CREATE INDEX saga_attention ON saga (start_time, saga_id) WHERE attention = 1",
            concat!(
                "CREATE TABLE saga_attribute (
                    name       TEXT NOT NULL,
                    value      TEXT NOT NULL,
                    start_time BIGINT NOT NULL,
                    saga_id    TEXT ",
                $by_bytes,
                " NOT NULL,
                    PRIMARY KEY (name, value, start_time, saga_id)
                )",
                $in_key
            ),
            "CREATE TABLE saga_version (hash TEXT PRIMARY KEY, pivot TEXT NOT NULL, retention BIGINT NOT NULL)",
        ]
    };
}

const SQLITE: &[&str] = schema!(" WITHOUT ROWID", "");
const POSTGRES: &[&str] = schema!("", "COLLATE \"C\"");

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct SagaTable {
    open: HashMap<String, pb::Saga>,
    versions: HashMap<String, VersionFacts>,
}

const INSERT_SAGA: &str = "INSERT INTO saga \
    (saga_id, shard, definition, definition_hash, state, start_time, end_time, expire_time, attention, summary) VALUES";
const UPDATE_SAGA: &str = "ON CONFLICT (saga_id) DO UPDATE SET state = excluded.state, end_time = excluded.end_time, \
    expire_time = excluded.expire_time, attention = excluded.attention, summary = excluded.summary";
const INSERT_ATTRIBUTE: &str =
    "INSERT INTO saga_attribute (name, value, start_time, saga_id) VALUES";

/// What rows need to know of a definition's version.
#[derive(Debug, Default)]
struct VersionFacts {
    pivot: String,
    retention: i64,
}

/// A row while a chunk of the log is applied.
#[derive(Debug)]
struct Row {
    saga: pb::Saga,
    started: bool,
    /// Of a saga that was just started; the row of any other one has it.
    shard: i64,
    /// Something that lists show has changed. A step that goes from one state to the next is not worth a write.
    changed: bool,
}

impl ledger::Projection for SagaTable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        3
    }

    fn schema(&self, dialect: Dialect) -> &'static [&'static str] {
        match dialect {
            Dialect::Sqlite => SQLITE,
            Dialect::Postgres => POSTGRES,
        }
    }

    fn tables(&self) -> &'static [&'static str] {
        &["saga", "saga_attribute", "saga_version", "saga_shard"]
    }

    fn apply<'a>(
        &'a mut self,
        tx: &'a mut Tx,
        events: &'a [Recorded],
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.apply_all(tx, events))
    }

    fn rolled_back(&mut self) {
        self.open.clear();
        self.versions.clear();
    }
}

impl SagaTable {
    async fn apply_all(&mut self, tx: &mut Tx, events: &[Recorded]) -> Result<(), Error> {
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        for recorded in events {
            if recorded.type_name == "saga.v1.DefinitionRegistered" {
                self.register(tx, &recorded.message()?).await?;
            }
            if recorded.stream.kind() != SAGA || recorded.type_name != SAGA_EVENT {
                continue;
            }
            let event: SagaEvent = recorded.message()?;
            let id = recorded.stream.key();
            if !rows.contains_key(id) {
                let saga = if recorded.version == 1 {
                    None
                } else {
                    self.find(tx, id).await?
                };
                let started = saga.is_none();
                let saga = saga.unwrap_or_else(|| pb::Saga {
                    saga_id: id.to_owned(),
                    ..pb::Saga::default()
                });
                rows.insert(
                    id,
                    Row {
                        saga,
                        started,
                        shard: 0,
                        changed: started,
                    },
                );
            }
            if let Some(row) = rows.get_mut(id) {
                row.saga.version = recorded.version;
                let started = started(&event);
                row.shard = started.map_or(row.shard, |started| started.shard);
                let hash = started.map_or(&row.saga.definition_hash, |started| {
                    &started.definition_hash
                });
                if !self.versions.contains_key(hash) {
                    let facts = facts(tx, hash).await?;
                    self.versions.insert(hash.to_owned(), facts);
                }
                let pivot = self.versions.get(hash).map_or("", |facts| &facts.pivot);
                let before = shown(&row.saga);
                fold(&mut row.saga, &event, pivot);
                row.changed |= before != shown(&row.saga);
            }
        }
        self.write(tx, rows).await
    }

    async fn register(
        &mut self,
        tx: &mut Tx,
        registered: &pb::DefinitionRegistered,
    ) -> Result<(), Error> {
        let Some(definition) = &registered.definition else {
            return Ok(());
        };
        let pivot = definition
            .steps
            .iter()
            .find(|step| step.phase() == Phase::Pivot)
            .map_or("", |step| &step.name);
        let retention = definition
            .retention
            .as_ref()
            .map_or(0, timestamp::duration_to_millis);
        tx.execute(
            "INSERT INTO saga_version (hash, pivot, retention) VALUES ($1, $2, $3) ON CONFLICT (hash) DO NOTHING",
            params![&registered.hash, pivot, retention],
        )
        .await?;
        Ok(())
    }

    async fn find(&mut self, tx: &mut Tx, id: &str) -> Result<Option<pb::Saga>, Error> {
        if let Some(saga) = self.open.remove(id) {
            return Ok(Some(saga));
        }
        let row = tx
            .fetch_optional("SELECT summary FROM saga WHERE saga_id = $1", params![id])
            .await?;
        row.map(|row| decode(&row.get::<Vec<u8>>(0)?)).transpose()
    }

    async fn write(&mut self, tx: &mut Tx, rows: BTreeMap<&str, Row>) -> Result<(), Error> {
        let mut written = Vec::with_capacity(rows.len());
        let mut attributes = Vec::new();
        let mut open = Vec::new();
        for (
            id,
            Row {
                saga,
                started,
                shard,
                changed,
            },
        ) in rows
        {
            let start = saga.start_time.as_ref().map_or(0, timestamp::to_millis);
            if started {
                attributes.extend(
                    saga.search_attributes
                        .iter()
                        .map(|(name, value)| params![name, value, start, id]),
                );
            }
            if changed {
                let retention = self
                    .versions
                    .get(&saga.definition_hash)
                    .map_or(0, |facts| facts.retention);
                written.push(row_values(&saga, shard, start, retention));
            }
            if saga.end_time.is_none() {
                open.push((id.to_owned(), saga));
            }
        }
        tx.execute_rows(INSERT_SAGA, written, UPDATE_SAGA).await?;
        tx.execute_rows(INSERT_ATTRIBUTE, attributes, "ON CONFLICT DO NOTHING")
            .await?;
        if self.open.len() + open.len() > KEPT {
            self.open.clear();
        }
        self.open.extend(open);
        Ok(())
    }
}

async fn facts(tx: &mut Tx, hash: &str) -> Result<VersionFacts, Error> {
    let sql = "SELECT pivot, retention FROM saga_version WHERE hash = $1";
    Ok(match tx.fetch_optional(sql, params![hash]).await? {
        Some(row) => VersionFacts {
            pivot: row.get(0)?,
            retention: row.get(1)?,
        },
        None => VersionFacts::default(),
    })
}

fn row_values(saga: &pb::Saga, shard: i64, start: i64, retention: i64) -> Vec<Value> {
    let end = saga.end_time.as_ref().map(timestamp::to_millis);
    params![
        &saga.saga_id,
        shard,
        &saga.definition,
        &saga.definition_hash,
        saga.state,
        start,
        end,
        end.map(|end| end.saturating_add(retention)),
        !saga.attention.is_empty(),
        saga.encode_to_vec()
    ]
}

/// A row's summary. Its `steps` are those that need attention; lists leave them out.
pub fn decode(summary: &[u8]) -> Result<pb::Saga, Error> {
    pb::Saga::decode(summary).map_err(|error| Error::decode("saga.v1.Saga", error))
}

fn started(event: &SagaEvent) -> Option<&pb::Started> {
    event
        .transitions
        .iter()
        .find_map(|transition| match &transition.kind {
            Some(Kind::Started(started)) => Some(started),
            _ => None,
        })
}

/// What a change of makes a row worth writing.
fn shown(saga: &pb::Saga) -> (i32, bool, Vec<String>, bool) {
    (
        saga.state,
        saga.pivot_dispatched,
        saga.attention.clone(),
        saga.end_time.is_some(),
    )
}

/// Applies an event to a row.
fn fold(saga: &mut pb::Saga, event: &SagaEvent, pivot: &str) {
    for transition in &event.transitions {
        match &transition.kind {
            Some(Kind::Started(started)) => {
                saga.definition.clone_from(&started.definition);
                saga.definition_hash.clone_from(&started.definition_hash);
                saga.search_attributes
                    .clone_from(&started.search_attributes);
                saga.deadline_time = started.deadline_time;
                saga.start_time = event.event_time;
            }
            Some(Kind::Dispatched(sent))
                if sent.step == pivot && sent.direction() == Direction::Action =>
            {
                saga.pivot_dispatched = true
            }
            Some(Kind::Parked(parked)) => {
                attend(saga, &parked.step, |step| step.set_state(StepState::Parked))
            }
            Some(Kind::Stalled(stalled)) => attend(saga, &stalled.step, |step| step.stalled = true),
            Some(Kind::Succeeded(done)) => saga.steps.retain(|step| step.name != done.step),
            Some(Kind::OperatorActed(acted)) => saga.steps.retain(|step| step.name != acted.step),
            Some(Kind::Aborted(aborted)) => {
                saga.aborted = Some(aborted.clone());
                saga.pivot_dispatched = false;
                // Whatever was parked or stalled on the way forward is settled: nobody waits for it any more.
                saga.steps.clear();
            }
            Some(Kind::Ended(ended)) => {
                saga.state = ended.state;
                saga.leftovers.clone_from(&ended.leftovers);
                saga.end_time = event.event_time;
                saga.steps.clear();
            }
            _ => {}
        }
    }
    saga.attention = saga.steps.iter().map(|step| step.name.clone()).collect();
    if saga.end_time.is_none() {
        let parked = saga
            .steps
            .iter()
            .any(|step| step.state() == StepState::Parked);
        saga.set_state(match (parked, &saga.aborted) {
            (true, _) => SagaState::Parked,
            (false, Some(_)) => SagaState::Compensating,
            (false, None) => SagaState::Running,
        });
    }
}

fn attend(saga: &mut pb::Saga, name: &str, mark: impl FnOnce(&mut StepStatus)) {
    if !saga.steps.iter().any(|step| step.name == name) {
        saga.steps.push(StepStatus {
            name: name.to_owned(),
            ..StepStatus::default()
        });
    }
    if let Some(step) = saga.steps.iter_mut().find(|step| step.name == name) {
        mark(step);
    }
}

#[cfg(test)]
mod tests {
    use sagamesh_api::saga::v1::{Aborted, Parked, Stalled, Transition};

    use super::*;

    #[test]
    fn what_was_stalled_or_parked_needs_no_attention_once_the_saga_is_undone() {
        let step = "pay".to_owned();
        let stalled = Kind::Stalled(Stalled { step: step.clone() });
        let parked = Kind::Parked(Parked {
            step,
            ..Parked::default()
        });
        let event = |kind| SagaEvent {
            transitions: vec![Transition { kind: Some(kind) }],
            ..SagaEvent::default()
        };
        for kind in [stalled, parked] {
            let mut saga = pb::Saga::default();
            fold(&mut saga, &event(kind), "pay");
            assert_eq!(saga.attention, ["pay"]);
            fold(&mut saga, &event(Kind::Aborted(Aborted::default())), "pay");
            assert!(saga.attention.is_empty());
            assert_eq!(saga.state(), SagaState::Compensating);
        }
    }
}
