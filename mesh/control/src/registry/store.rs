//! The registry on disk: one file, written whole.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::table::{MAX_INSTANCES, Record, Table};
use crate::files;

/// An instance is below 64 KiB with everything that it may say.
const MAX_BYTES: u64 = 64 * 1024 * (MAX_INSTANCES as u64 + PODS);
/// Pods are not counted with the others: more than one machine runs.
const PODS: u64 = 1024;

#[derive(Serialize, Deserialize)]
struct Stored {
    index: u64,
    instances: Vec<Record>,
}

/// Loads the registry; an empty one if there is no file.
///
/// # Errors
/// If there is one that cannot be read.
pub fn load(path: &Path, now: Instant) -> anyhow::Result<Table> {
    let text = files::read(path, MAX_BYTES)
        .with_context(|| format!("cannot read the registry {}", path.display()))?;
    let Some(text) = text else {
        return Ok(Table::default());
    };
    let stored: Stored = serde_json::from_str(&text).with_context(|| {
        format!(
            "the registry {} is damaged: remove it, and instances will register again",
            path.display()
        )
    })?;
    Ok(Table::restored(stored.instances, stored.index, now))
}

/// The text of the registry's file.
pub fn encode(table: &Table) -> String {
    let stored = Stored {
        index: table.index(),
        instances: table.records(),
    };
    // Strings, numbers and maps with string keys cannot fail.
    serde_json::to_string(&stored).unwrap_or_default()
}

/// Writes the registry's file.
///
/// # Errors
/// The operating system's.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    files::write(path, text, false)
}
