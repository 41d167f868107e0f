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

/// PostgreSQL, in a schema of the service's own name.
///
/// A shard is a log with its own positions; there is one so far. `epoch` and `owner` are for leased shards. `ledger_writers` holds each process's last batch, so that
/// an unanswered commit can be looked up; `session` makes a statement that arrives after that look-up fail.
pub(crate) const POSTGRES: &str = r#"
CREATE TABLE ledger_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE ledger_shards (
    shard BIGINT PRIMARY KEY,
    head  BIGINT NOT NULL,
    epoch BIGINT NOT NULL DEFAULT 0,
    owner TEXT
);
INSERT INTO ledger_shards (shard, head) VALUES (0, 0);
CREATE TABLE ledger_events (
    shard       BIGINT NOT NULL DEFAULT 0,
    position    BIGINT NOT NULL,
    stream      TEXT COLLATE "C" NOT NULL,
    version     BIGINT NOT NULL,
    type        TEXT NOT NULL,
    data        BYTEA NOT NULL,
    commit_time BIGINT NOT NULL,
    PRIMARY KEY (shard, position)
);
CREATE UNIQUE INDEX ledger_events_stream ON ledger_events (stream, version);
CREATE TABLE ledger_inbox (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key         TEXT COLLATE "C" NOT NULL UNIQUE,
    value       BYTEA NOT NULL,
    commit_time BIGINT NOT NULL
);
CREATE TABLE ledger_snapshots (stream TEXT COLLATE "C" PRIMARY KEY, version BIGINT NOT NULL, data BYTEA NOT NULL);
CREATE TABLE ledger_projections (name TEXT PRIMARY KEY, version BIGINT NOT NULL, position BIGINT NOT NULL);
CREATE TABLE ledger_cursors (consumer TEXT PRIMARY KEY, log_id TEXT NOT NULL, position BIGINT NOT NULL);
CREATE TABLE ledger_writers (
    writer  TEXT PRIMARY KEY,
    session BIGINT NOT NULL,
    batch   TEXT,
    first   BIGINT,
    seen    BIGINT NOT NULL
);

-- One batch in one round trip. Whoever holds the shard's row writes; what it checks after taking the row is current, because each
-- statement of a volatile function has its own snapshot. Returns the first position, or which streams and keys are stale.
CREATE FUNCTION ledger_append(
    p_shard BIGINT, p_writer TEXT, p_session BIGINT, p_batch TEXT, p_time BIGINT,
    p_streams TEXT[], p_versions BIGINT[], p_types TEXT[], p_data BYTEA[],
    p_keys TEXT[], p_values BYTEA[],
    p_expected TEXT[], p_expected_versions BIGINT[], p_absent TEXT[],
    p_consumers TEXT[], p_logs TEXT[], p_positions BIGINT[],
    p_snapshots TEXT[], p_snapshot_versions BIGINT[], p_snapshot_data BYTEA[],
    OUT first BIGINT, OUT stale_streams TEXT[], OUT stale_keys TEXT[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    base BIGINT;
    writes BOOLEAN := cardinality(p_streams) + cardinality(p_keys) + cardinality(p_consumers) > 0;
BEGIN
    IF writes THEN
        SELECT s.head INTO base FROM ledger_shards s WHERE s.shard = p_shard FOR UPDATE;
        PERFORM 1 FROM ledger_writers w WHERE w.writer = p_writer AND w.session = p_session;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'this session of the writer has ended';
        END IF;
    ELSE
        SELECT s.head INTO base FROM ledger_shards s WHERE s.shard = p_shard;
    END IF;
    first := base + 1;
    SELECT array_agg(x.stream) INTO stale_streams FROM unnest(p_expected, p_expected_versions) AS x (stream, version)
        WHERE x.version <> COALESCE((SELECT max(e.version) FROM ledger_events e WHERE e.stream = x.stream), 0);
    SELECT array_agg(x.key) INTO stale_keys FROM unnest(p_absent) AS x (key)
        WHERE EXISTS (SELECT 1 FROM ledger_inbox i WHERE i.key = x.key);
    IF stale_streams IS NOT NULL OR stale_keys IS NOT NULL OR NOT writes THEN
        RETURN;
    END IF;
    INSERT INTO ledger_events (shard, position, stream, version, type, data, commit_time)
        SELECT p_shard, base + x.at, x.stream, x.version, x.type, x.data, p_time
        FROM unnest(p_streams, p_versions, p_types, p_data) WITH ORDINALITY AS x (stream, version, type, data, at);
    IF cardinality(p_keys) > 0 THEN
        INSERT INTO ledger_inbox (key, value, commit_time) SELECT x.key, x.value, p_time FROM unnest(p_keys, p_values) AS x (key, value);
    END IF;
    IF cardinality(p_consumers) > 0 THEN
        INSERT INTO ledger_cursors (consumer, log_id, position)
            SELECT DISTINCT ON (x.consumer) x.consumer, x.log, x.position
            FROM unnest(p_consumers, p_logs, p_positions) WITH ORDINALITY AS x (consumer, log, position, at) ORDER BY x.consumer, x.at DESC
            ON CONFLICT (consumer) DO UPDATE SET log_id = excluded.log_id, position = excluded.position;
    END IF;
    IF cardinality(p_snapshots) > 0 THEN
        INSERT INTO ledger_snapshots (stream, version, data)
            SELECT x.stream, x.version, x.data FROM unnest(p_snapshots, p_snapshot_versions, p_snapshot_data) AS x (stream, version, data)
            ON CONFLICT (stream) DO UPDATE SET version = excluded.version, data = excluded.data
                WHERE ledger_snapshots.version < excluded.version;
    END IF;
    UPDATE ledger_writers w SET batch = p_batch, first = base + 1, seen = p_time WHERE w.writer = p_writer;
    UPDATE ledger_shards s SET head = base + cardinality(p_streams) WHERE s.shard = p_shard;
END $$;
"#;
