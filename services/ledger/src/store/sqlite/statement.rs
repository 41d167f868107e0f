//! One batch as one execution: multi-row inserts, padded to a few sizes so that few statements are ever prepared.

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, SqliteConnection};

use crate::Error;
use crate::store::Batch;

/// Rows of one INSERT; a batch is some of the largest and one that fits the rest.
const SIZES: [usize; 14] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];
const LARGEST: usize = SIZES[SIZES.len() - 1];

/// How many rows the statements of a batch have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    events: usize,
    inbox: usize,
    /// Rare tables follow in further statements, in the same transaction.
    extras: bool,
}

impl Shape {
    fn of(batch: &Batch) -> Self {
        let extras =
            !batch.cursors.is_empty() || !batch.snapshots.is_empty() || batch.events.is_empty();
        Self {
            events: room(batch.events.len()),
            inbox: room(batch.inbox.len()),
            extras,
        }
    }

    /// Whether the text ends with the commit.
    pub(super) fn complete(self) -> bool {
        !self.extras
    }

    /// The SQL. One INSERT alone is a transaction by itself. OR ROLLBACK, because a conflict ends the whole batch: so SQLite keeps no journal
    /// of each statement.
    pub(super) fn text(self) -> String {
        let mut inserts = Vec::new();
        for rows in chunks(self.events) {
            inserts.push(format!(
                "INSERT OR ROLLBACK INTO ledger_events (position, stream, version, type, data, commit_time, batch) \
                 SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL",
                marks(rows, 7)
            ));
        }
        for rows in chunks(self.inbox) {
            inserts.push(format!(
                "INSERT OR ROLLBACK INTO ledger_inbox (key, value, commit_time) SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL",
                marks(rows, 3)
            ));
        }
        if self.extras {
            inserts.insert(0, "BEGIN IMMEDIATE".into());
        } else if inserts.len() > 1 {
            inserts.insert(0, "BEGIN IMMEDIATE".into());
            inserts.push("COMMIT".into());
        }
        inserts.join("; ")
    }
}

fn room(rows: usize) -> usize {
    let rest = rows % LARGEST;
    rows - rest
        + if rest == 0 {
            0
        } else {
            SIZES
                .into_iter()
                .find(|size| *size >= rest)
                .unwrap_or(LARGEST)
        }
}

fn chunks(room: usize) -> impl Iterator<Item = usize> {
    let rest = room % LARGEST;
    std::iter::repeat_n(LARGEST, room / LARGEST).chain((rest > 0).then_some(rest))
}

/// `(?, ?), (?, ?)`; without parentheses for single columns.
pub(super) fn marks(rows: usize, columns: usize) -> String {
    let row = match columns {
        1 => "?".to_owned(),
        _ => format!("({}?)", "?, ".repeat(columns - 1)),
    };
    let mut text = String::with_capacity(rows * (row.len() + 2));
    for at in 0..rows {
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(&row);
    }
    text
}

/// The parameters of a batch, and roughly how many bytes it adds to the WAL.
pub(super) fn arguments(batch: &Batch, first: u64) -> Result<(Shape, SqliteArguments, u64), Error> {
    let shape = Shape::of(batch);
    let mut arguments = SqliteArguments::default();
    arguments.reserve(shape.events * 7 + shape.inbox * 3, 0);
    let bytes = fill(&mut arguments, batch, first, shape).map_err(sqlx::Error::Encode)?;
    Ok((shape, arguments, bytes))
}

fn fill(
    arguments: &mut SqliteArguments,
    batch: &Batch,
    first: u64,
    shape: Shape,
) -> Result<u64, sqlx::error::BoxDynError> {
    let mut bytes = 12 << 10;
    for (at, event) in batch.events.iter().enumerate() {
        bytes += event.data.len() as u64 + 200;
        arguments.add((first + at as u64) as i64)?;
        arguments.add(event.stream.shared())?;
        arguments.add(event.version as i64)?;
        arguments.add(event.type_name)?;
        arguments.add(&*event.data)?;
        arguments.add(batch.commit_millis)?;
        arguments.add((at == 0).then(|| batch.id.as_bytes().to_vec()))?;
    }
    for _ in 0..(shape.events - batch.events.len()) * 7 {
        arguments.add(None::<i64>)?;
    }
    for (key, value) in &batch.inbox {
        bytes += value.len() as u64 + 200;
        arguments.add(std::sync::Arc::clone(key))?;
        arguments.add(&**value)?;
        arguments.add(batch.commit_millis)?;
    }
    for _ in 0..(shape.inbox - batch.inbox.len()) * 3 {
        arguments.add(None::<i64>)?;
    }
    Ok(bytes)
}

/// What few batches have, and the commit.
pub(super) async fn extras(
    connection: &mut SqliteConnection,
    batch: &Batch,
) -> Result<(), sqlx::Error> {
    for cursor in &batch.cursors {
        sqlx::query(
            "INSERT INTO ledger_cursors (consumer, log_id, position) VALUES ($1, $2, $3) \
             ON CONFLICT (consumer) DO UPDATE SET log_id = excluded.log_id, position = excluded.position",
        )
        .bind(&cursor.consumer)
        .bind(&cursor.log_id)
        .bind(cursor.position as i64)
        .execute(&mut *connection)
        .await?;
    }
    for snapshot in &batch.snapshots {
        sqlx::query(
            "INSERT INTO ledger_snapshots (stream, version, data) VALUES ($1, $2, $3) \
             ON CONFLICT (stream) DO UPDATE SET version = excluded.version, data = excluded.data WHERE version < excluded.version",
        )
        .bind(snapshot.stream.as_str())
        .bind(snapshot.version as i64)
        .bind(&snapshot.data)
        .execute(&mut *connection)
        .await?;
    }
    if batch.events.is_empty() {
        sqlx::query("INSERT INTO ledger_meta (key, value) VALUES ('last_batch', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
            .bind(batch.id.to_string())
            .execute(&mut *connection)
            .await?;
    }
    sqlx::raw_sql("COMMIT")
        .execute(connection)
        .await
        .map(|_| ())
}
