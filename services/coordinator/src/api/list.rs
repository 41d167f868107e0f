//! ListSagas: pages of the table of sagas, newest first, every query a walk along an index.

use chassis::{Problem, Violations, page, timestamp};

use ledger::sql::{Dynamic, Row, Value};
use prost::Message as _;
use sagamesh_api::saga::v1::{ListSagasRequest, ListSagasResponse, Saga, SagaFilter, SagaState};

use super::check;
use crate::engine::Engine;
use crate::problems::{ERRORS, read_failed};
use crate::projection::{NAME, decode};

const DEFAULT_PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 500;
/// Ids that are read together.
const OPEN_PAGE: u32 = 500;
/// Above this many pairs of definition and state one walk over all sagas is cheaper than a walk for each pair.
const MOST_WALKS: usize = 64;
/// States of sagas that have not ended.
const OPEN: [SagaState; 3] = [
    SagaState::Running,
    SagaState::Compensating,
    SagaState::Parked,
];
/// How long the table of sagas may take to catch up before it is asked for all open sagas.
const CATCH_UP: std::time::Duration = std::time::Duration::from_secs(5);

/// One page.
pub(super) async fn list(
    engine: &Engine,
    request: ListSagasRequest,
) -> Result<ListSagasResponse, Problem> {
    let size = page::page_size(ERRORS, request.page_size, DEFAULT_PAGE, LARGEST_PAGE)?;
    let filter = request.filter.unwrap_or_default();
    let mut found = Violations::new();
    check::filter(&mut found, &filter, false);
    found.into_result(ERRORS)?;
    let fingerprint = fingerprint(&filter);
    let after = page::decode_token(ERRORS, &fingerprint, &request.page_token)?
        .map(|cursor| Cursor::decode(&cursor))
        .transpose()?;
    let mut sagas = find(engine, &filter, after.as_ref(), size + 1).await?;
    let more = sagas.len() > usize::try_from(size).unwrap_or(usize::MAX);
    sagas.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    let next_page_token = match sagas.last() {
        Some(last) if more => page::encode_token(&fingerprint, &Cursor::of(last).encode()),
        _ => String::new(),
    };
    Ok(ListSagasResponse {
        sagas,
        next_page_token,
    })
}

/// Ids of all open sagas that match, newest first; at most `most`.
pub(super) async fn find_open(
    engine: &Engine,
    filter: &SagaFilter,
    most: u32,
) -> Result<Vec<String>, Problem> {
    let open = OPEN.map(i32::from);
    let mut filter = filter.clone();
    filter.states = if filter.states.is_empty() {
        open.to_vec()
    } else {
        filter
            .states
            .iter()
            .copied()
            .filter(|state| open.contains(state))
            .collect()
    };
    if filter.states.is_empty() {
        return Ok(Vec::new());
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut ids = Vec::new();
    let mut after: Option<Cursor> = None;
    while ids.len() < most {
        let mut page = find_ids(engine, &filter, after.as_ref(), OPEN_PAGE).await?;
        page.truncate(most - ids.len());
        ids.extend(page.iter().map(|place| place.saga_id.clone()));
        let full = page.len() == OPEN_PAGE as usize;
        after = page.pop();
        if !full {
            break;
        }
    }
    Ok(ids)
}

/// Waits until the table has what is on record now.
pub(super) async fn catch_up(engine: &Engine) -> Result<(), Problem> {
    let newest = engine.ledger.newest().await;
    let head = newest.map_err(|error| read_failed(&error))?;
    let caught_up = engine.ledger.wait_for_projection(NAME, head, CATCH_UP);
    caught_up.await.map_err(|error| read_failed(&error))
}

/// How many open sagas of all replicas run a version, as far as the table has got.
pub(super) async fn count_open(
    engine: &Engine,
    definition: &str,
    hash: &str,
) -> Result<u64, Problem> {
    let [running, compensating, parked] = OPEN.map(i32::from);
    let sql = "SELECT COUNT(*) FROM saga WHERE definition = $1 AND state IN ($2, $3, $4) AND definition_hash = $5";
    let row = engine
        .ledger
        .reader()
        .fetch_optional(
            Dynamic(sql.to_owned()),
            ledger::params![definition, running, compensating, parked, hash],
        )
        .await
        .map_err(|error| read_failed(&error))?;
    let count = row.map_or(Ok(0), |row| row.get(0));
    count.map_err(|error| read_failed(&error))
}

/// The place of a saga in the order of lists.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cursor {
    start: i64,
    saga_id: String,
}

impl Cursor {
    fn of(saga: &Saga) -> Self {
        Self {
            start: saga.start_time.as_ref().map_or(0, timestamp::to_millis),
            saga_id: saga.saga_id.clone(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.start.to_be_bytes().to_vec();
        bytes.extend_from_slice(self.saga_id.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        let parsed = bytes.split_first_chunk::<8>().and_then(|(start, id)| {
            Some(Self {
                start: i64::from_be_bytes(*start),
                saga_id: String::from_utf8(id.to_vec()).ok()?,
            })
        });
        parsed.ok_or_else(|| {
            ERRORS.invalid_field(
                "page_token",
                "is not a token of this service: start from the first page, without a token",
            )
        })
    }
}

fn fingerprint(filter: &SagaFilter) -> String {
    filter
        .encode_to_vec()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A page of sagas, newest first.
async fn find(
    engine: &Engine,
    filter: &SagaFilter,
    after: Option<&Cursor>,
    limit: u32,
) -> Result<Vec<Saga>, Problem> {
    let read = |row: &Row| {
        let mut saga = decode(&row.get::<Vec<u8>>(0)?)?;
        saga.steps.clear();
        Ok((Cursor::of(&saga), saga))
    };
    let found = merged(engine, SUMMARY, filter, after, limit, read).await?;
    Ok(found.into_iter().map(|(_, saga)| saga).collect())
}

/// A page of places, newest first, without what is known of the sagas.
async fn find_ids(
    engine: &Engine,
    filter: &SagaFilter,
    after: Option<&Cursor>,
    limit: u32,
) -> Result<Vec<Cursor>, Problem> {
    let read = |row: &Row| {
        let (start, saga_id) = (row.get(0)?, row.get(1)?);
        Ok((Cursor { start, saga_id }, ()))
    };
    let found = merged(engine, PLACE, filter, after, limit, read).await?;
    Ok(found.into_iter().map(|(place, ())| place).collect())
}

/// The results of all walks, newest first.
async fn merged<T>(
    engine: &Engine,
    columns: &str,
    filter: &SagaFilter,
    after: Option<&Cursor>,
    limit: u32,
    read: impl Fn(&Row) -> Result<(Cursor, T), ledger::Error>,
) -> Result<Vec<(Cursor, T)>, Problem> {
    let mut found = Vec::new();
    for (definition, state) in walks(engine, filter) {
        let walk = (definition.as_deref(), state);
        let (sql, values) = query(columns, filter, after, limit, walk);
        let rows = engine
            .ledger
            .reader()
            .fetch_all(Dynamic(sql), values)
            .await
            .map_err(|error| read_failed(&error))?;
        for row in &rows {
            found.push(read(row).map_err(|error| read_failed(&error))?);
        }
        found.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        // Long lists must not hold up the sagas themselves.
        tokio::task::yield_now().await;
    }
    Ok(found)
}

/// The index walks whose merged results answer a filter: one for each definition and state, or a single one.
fn walks(engine: &Engine, filter: &SagaFilter) -> Vec<(Option<String>, Option<i32>)> {
    let plain = filter.definitions.is_empty() && filter.states.is_empty();
    if plain || filter.needs_attention || !filter.search_attributes.is_empty() {
        return vec![(None, None)];
    }
    let mut definitions = if filter.definitions.is_empty() {
        engine.registry.names()
    } else {
        filter.definitions.clone()
    };
    definitions.sort_unstable();
    definitions.dedup();
    let mut states = if filter.states.is_empty() {
        (1..=6).collect()
    } else {
        filter.states.clone()
    };
    states.sort_unstable();
    states.dedup();
    if definitions.len() * states.len() > MOST_WALKS {
        return vec![(None, None)];
    }
    definitions
        .iter()
        .flat_map(|definition| {
            states
                .iter()
                .map(|state| (Some(definition.clone()), Some(*state)))
        })
        .collect()
}

/// What a walk reads: the whole summary, or the place alone.
const SUMMARY: &str = "s.summary";
const PLACE: &str = "s.start_time, s.saga_id";

/// The query of one walk.
fn query(
    columns: &str,
    filter: &SagaFilter,
    after: Option<&Cursor>,
    limit: u32,
    (definition, state): (Option<&str>, Option<i32>),
) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = Vec::new();
    let mut conditions: Vec<String> = Vec::new();
    let mut bind = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    let mut attributes = filter.search_attributes.iter();
    // The first attribute leads the walk, along the order of the list.
    let (from, time, id) = match attributes.next() {
        Some((name, value)) => {
            let (name, value) = (bind(Value::from(name)), bind(Value::from(value)));
            conditions.push(format!("a.name = {name} AND a.value = {value}"));
            (
                "saga_attribute a JOIN saga s ON s.saga_id = a.saga_id",
                "a.start_time",
                "a.saga_id",
            )
        }
        None => ("saga s", "s.start_time", "s.saga_id"),
    };
    for (name, value) in attributes {
        let (name, value) = (bind(Value::from(name)), bind(Value::from(value)));
        conditions.push(format!(
            "EXISTS (SELECT 1 FROM saga_attribute o WHERE o.name = {name} AND o.value = {value} AND o.start_time = s.start_time AND o.saga_id = s.saga_id)"
        ));
    }
    match (definition, state) {
        (Some(definition), Some(state)) => {
            let (definition, state) = (bind(Value::from(definition)), bind(Value::from(state)));
            conditions.push(format!("s.definition = {definition} AND s.state = {state}"));
        }
        _ => {
            if !filter.definitions.is_empty() {
                let names: Vec<String> = filter
                    .definitions
                    .iter()
                    .map(|name| bind(Value::from(name)))
                    .collect();
                conditions.push(format!("s.definition IN ({})", names.join(", ")));
            }
            if !filter.states.is_empty() {
                let states: Vec<String> = filter
                    .states
                    .iter()
                    .map(|state| bind(Value::from(*state)))
                    .collect();
                conditions.push(format!("s.state IN ({})", states.join(", ")));
            }
        }
    }
    if filter.needs_attention {
        conditions.push("s.attention = 1".to_owned());
    }
    if let Some(from) = &filter.started_after_time {
        conditions.push(format!(
            "{time} >= {}",
            bind(Value::from(timestamp::to_millis(from)))
        ));
    }
    if let Some(before) = &filter.started_before_time {
        conditions.push(format!(
            "{time} < {}",
            bind(Value::from(timestamp::to_millis(before)))
        ));
    }
    if let Some(after) = after {
        let (start, saga_id) = (
            bind(Value::from(after.start)),
            bind(Value::from(&after.saga_id)),
        );
        conditions.push(format!("({time}, {id}) < ({start}, {saga_id})"));
    }
    let whole = if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    };
    let limit = bind(Value::from(limit));
    (
        format!(
            "SELECT {columns} FROM {from}{whole} ORDER BY {time} DESC, {id} DESC LIMIT {limit}"
        ),
        values,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chassis::{Env, Tasks};
    use ledger::sql::Dynamic;
    use ledger::{CommitterOptions, Ledger, StoreConfig};

    use super::*;
    use crate::decider::Coordinator;
    use crate::ownership::Ownership;
    use crate::projection::SagaTable;

    fn filters() -> Vec<(SagaFilter, Option<(&'static str, i32)>)> {
        let attributes = BTreeMap::from([
            ("a".to_owned(), "1".to_owned()),
            ("b".to_owned(), "2".to_owned()),
        ]);
        vec![
            (SagaFilter::default(), None),
            (SagaFilter::default(), Some(("order", 4))),
            (
                SagaFilter {
                    needs_attention: true,
                    ..SagaFilter::default()
                },
                None,
            ),
            (
                SagaFilter {
                    search_attributes: attributes,
                    ..SagaFilter::default()
                },
                None,
            ),
        ]
    }

    #[tokio::test]
    async fn every_list_walks_an_index_in_its_own_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let tasks = Tasks::new();
        let projections: Vec<Box<dyn ledger::Projection>> = vec![Box::new(SagaTable::default())];
        let ledger = Ledger::open(
            StoreConfig::sqlite(dir.path(), "coordinator"),
            Coordinator::new(std::sync::Arc::default(), Ownership::alone(&Env::system())),
            (),
            projections,
            &Env::system(),
            &tasks,
            CommitterOptions::default(),
        )
        .await
        .expect("open");
        let cursor = Cursor {
            start: 5,
            saga_id: "x".to_owned(),
        };
        for (filter, walk) in filters() {
            for after in [None, Some(&cursor)] {
                let (definition, state) = walk.unzip();
                let (sql, values) = query(SUMMARY, &filter, after, 51, (definition, state));
                let explain = Dynamic(format!("EXPLAIN QUERY PLAN {sql}"));
                let rows = ledger
                    .reader()
                    .fetch_all(explain, values)
                    .await
                    .expect("a plan");
                let plan: Vec<String> = rows
                    .iter()
                    .map(|row| row.get("detail").expect("a detail"))
                    .collect();
                let plan = plan.join("; ");
                assert!(!plan.contains("TEMP B-TREE"), "{sql}: {plan}");
                assert!(
                    plan.contains("USING") && plan.contains("INDEX")
                        || plan.contains("PRIMARY KEY"),
                    "{sql}: {plan}"
                );
                assert!(
                    !plan.starts_with("SCAN s;") && plan != "SCAN s",
                    "{sql}: {plan}"
                );
            }
        }
        tasks
            .shutdown(std::time::Duration::from_secs(5))
            .await
            .expect("stopped");
    }
}
