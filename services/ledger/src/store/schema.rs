//! The ledger's own tables.

// A change that only adds (a table, a column with a default) raises the version and leaves `usable_from` in `ledger_meta` where it is:
// programs from that version on go on with the database, and start on it. What takes something away raises both, one release later.

/// The schema version this program writes to SQLite, and the newest it knows.
pub(crate) const VERSION: i64 = 1;

/// The same for PostgreSQL.
pub(crate) const POSTGRES_VERSION: i64 = 2;

/// The oldest version whose programs can use what this one creates, in SQLite and in PostgreSQL.
pub(crate) const USABLE_FROM: i64 = 1;
pub(crate) const POSTGRES_USABLE_FROM: i64 = 2;

/// Whether a program that knows versions up to `known` can use a database of version `found`.
pub(crate) fn is_usable(found: i64, usable_from: Option<i64>, known: i64) -> bool {
    found <= known || usable_from.is_some_and(|oldest| oldest <= known)
}

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
/// `ledger_shards` counts the positions of a log; there is one so far. Whoever holds its row writes: appends and changes of leases take turns on it.
/// `ledger_writers` holds each process's last batch, so that an unanswered commit can be looked up; `session` makes a statement that arrives after that look-up fail.
pub(crate) const POSTGRES: &str = r#"
CREATE TABLE ledger_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE ledger_shards (
    shard BIGINT PRIMARY KEY,
    head  BIGINT NOT NULL
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
"#;

/// Leases, for services whose streams have owners. An owner is a process (`session`) under the name of a replica; it owns what it holds for as long as its
/// row has not expired. A shard belongs to the replica that it was made for (`home`), whoever has it meanwhile; `handed` is what its last owner left for the next.
pub(crate) const POSTGRES_LEASES: &str = r#"
CREATE TABLE ledger_owners (
    name     TEXT PRIMARY KEY,
    session  TEXT NOT NULL,
    address  TEXT NOT NULL,
    draining BOOLEAN NOT NULL,
    expires  TIMESTAMPTZ NOT NULL
);
CREATE TABLE ledger_leases (
    shard   BIGINT PRIMARY KEY,
    home    TEXT NOT NULL UNIQUE,
    owner   TEXT,
    session TEXT,
    epoch   BIGINT NOT NULL DEFAULT 0,
    handed  BYTEA
);

-- Takes every shard that nobody owns, except those whose home is there to take them itself. No append is between its check and its commit meanwhile,
-- and no renewal: the rows of owners that have expired are locked, so that one of them either renews before, and keeps its shards, or sees them gone after.
CREATE FUNCTION ledger_take(p_name TEXT, p_session TEXT, OUT shard_taken BIGINT, OUT new_epoch BIGINT, OUT handed_over BYTEA, OUT log_head BIGINT)
RETURNS SETOF RECORD LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    base BIGINT;
    instant TIMESTAMPTZ;
BEGIN
    SELECT s.head INTO base FROM ledger_shards s WHERE s.shard = 0 FOR UPDATE;
    instant := clock_timestamp();
    PERFORM 1 FROM ledger_owners o WHERE o.expires <= instant FOR UPDATE;
    RETURN QUERY
        WITH present AS (SELECT o.name, o.session, o.draining FROM ledger_owners o WHERE o.expires > instant),
        free AS (
            SELECT l.shard, l.handed FROM ledger_leases l
            WHERE EXISTS (SELECT 1 FROM present p WHERE p.name = p_name AND p.session = p_session AND NOT p.draining)
                AND NOT EXISTS (SELECT 1 FROM present p WHERE p.name = l.owner AND p.session = l.session)
                AND (l.home = p_name OR NOT EXISTS (SELECT 1 FROM present p WHERE p.name = l.home AND NOT p.draining)))
        UPDATE ledger_leases l SET owner = p_name, session = p_session, epoch = l.epoch + 1, handed = NULL
            FROM free WHERE free.shard = l.shard RETURNING l.shard, l.epoch, free.handed, base;
END $$;
"#;

/// The one statement that writes.
pub(crate) const POSTGRES_APPEND: &str = r#"
-- One batch in one round trip. Whoever holds the shard's row writes; what it checks after taking the row is current, because each
-- statement of a volatile function has its own snapshot. Returns the first position, or which streams and keys are stale and which leases are lost.
CREATE FUNCTION ledger_append(
    p_shard BIGINT, p_writer TEXT, p_session BIGINT, p_batch TEXT, p_time BIGINT,
    p_streams TEXT[], p_versions BIGINT[], p_types TEXT[], p_data BYTEA[],
    p_keys TEXT[], p_values BYTEA[],
    p_expected TEXT[], p_expected_versions BIGINT[], p_absent TEXT[],
    p_consumers TEXT[], p_logs TEXT[], p_positions BIGINT[],
    p_snapshots TEXT[], p_snapshot_versions BIGINT[], p_snapshot_data BYTEA[],
    p_leased BIGINT[], p_epochs BIGINT[],
    OUT first BIGINT, OUT stale_streams TEXT[], OUT stale_keys TEXT[], OUT lost_leases BIGINT[]
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
    IF cardinality(p_leased) > 0 THEN
        SELECT array_agg(x.shard) INTO lost_leases FROM unnest(p_leased, p_epochs) AS x (shard, epoch)
            WHERE NOT EXISTS (
                SELECT 1 FROM ledger_leases l JOIN ledger_owners o ON o.name = l.owner AND o.session = l.session
                WHERE l.shard = x.shard AND l.epoch = x.epoch AND o.expires > clock_timestamp());
    END IF;
    IF stale_streams IS NOT NULL OR stale_keys IS NOT NULL OR lost_leases IS NOT NULL OR NOT writes THEN
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

/// From version 1, whose append knew no leases.
pub(crate) const POSTGRES_FROM_1: &str = "
DROP FUNCTION ledger_append(BIGINT, TEXT, BIGINT, TEXT, BIGINT, TEXT[], BIGINT[], TEXT[], BYTEA[], TEXT[], BYTEA[], TEXT[], BIGINT[], TEXT[],
    TEXT[], TEXT[], BIGINT[], TEXT[], BIGINT[], BYTEA[]);
ALTER TABLE ledger_shards DROP COLUMN epoch, DROP COLUMN owner;
UPDATE ledger_meta SET value = '2' WHERE key = 'schema_version';
";
