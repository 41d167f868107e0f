//! The ledger's own tables.

/// The schema version this program writes, and the newest it can read.
pub(crate) const VERSION: i64 = 1;

/// SQLite. `batch` is the id of the batch on its first event, so that an unanswered commit can be looked up.
pub(crate) const SQLITE: &str = "
CREATE TABLE ledger_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE ledger_events (
    position    INTEGER PRIMARY KEY,
    stream      TEXT NOT NULL,
    version     INTEGER NOT NULL,
    type        TEXT NOT NULL,
    data        BLOB NOT NULL,
    commit_time INTEGER NOT NULL,
    batch       BLOB
) STRICT;
CREATE UNIQUE INDEX ledger_events_stream ON ledger_events (stream, version);
CREATE TABLE ledger_inbox (
    id          INTEGER PRIMARY KEY,
    key         TEXT NOT NULL,
    value       BLOB NOT NULL,
    commit_time INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX ledger_inbox_key ON ledger_inbox (key);
CREATE TABLE ledger_snapshots (stream TEXT PRIMARY KEY, version INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE TABLE ledger_projections (name TEXT PRIMARY KEY, version INTEGER NOT NULL, position INTEGER NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE ledger_cursors (consumer TEXT PRIMARY KEY, log_id TEXT NOT NULL, position INTEGER NOT NULL) WITHOUT ROWID, STRICT;
";
