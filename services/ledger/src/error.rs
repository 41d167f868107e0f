//! What can go wrong, and what to do about it.

use std::sync::Arc;

use crate::stream::MAX_NAME_BYTES;

/// An error of the ledger. Cloneable, because one failed batch answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The database is damaged or is something else.
    #[error(
        "{database} is damaged or is not a ledger ({detail}): restore it from a backup, or move it away to start with an empty one"
    )]
    Corrupt {
        /// The file, or the database's name.
        database: String,
        /// What was found.
        detail: String,
    },
    /// The database was written by a newer program.
    #[error(
        "{database} has schema version {found}, and this program knows versions up to {known}: start the newer program, or restore a backup made by this one"
    )]
    Newer {
        /// The file, or the database's name.
        database: String,
        /// Its schema version.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// Another process has the database open.
    #[error(
        "{database} is in use by another process: stop that process first, or use another data folder"
    )]
    InUse {
        /// The file.
        database: String,
    },
    /// No space is left on the disk.
    #[error(
        "no space is left for {database}: nothing was written; make room on that disk, and writing goes on by itself"
    )]
    Full {
        /// The file, or the database's name.
        database: String,
    },
    /// The settings make no sense.
    #[error("{0}")]
    Config(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// The database refused a statement or could not be reached.
    #[error("the database failed: {0}")]
    Sql(Arc<sqlx::Error>),
    /// A stored event cannot be decoded.
    #[error(
        "event of type {type_name} cannot be decoded: {detail}; it was written by a newer program or the log is damaged"
    )]
    Decode {
        /// Full protobuf name.
        type_name: String,
        /// What the decoder said.
        detail: String,
    },
    /// A decider or projection broke its contract; a bug of the service.
    #[error("{0}")]
    Contract(String),
    /// No stream and no inbox row can have this name.
    #[error(
        "{name:?} cannot name a stream or an inbox row: a name has at most {MAX_NAME_BYTES} bytes and no NUL; ask with an id that keeps to that"
    )]
    Name {
        /// The name, cut short.
        name: String,
    },
    /// Another writer was faster too many times in a row.
    #[error("other writers changed the same streams {0} times in a row: try again later")]
    Contended(u32),
    /// A position that the log does not hold.
    #[error("position {position} is outside of the log, which holds {oldest} to {head}")]
    OutOfRange {
        /// What was asked for.
        position: u64,
        /// The oldest position kept.
        oldest: u64,
        /// The newest position.
        head: u64,
    },
    /// The log is another one than the caller knows.
    #[error(
        "the log is {found}, not {expected}: it was restored or replaced; forget the position and follow it from the start"
    )]
    LogReplaced {
        /// The log id the caller knows.
        expected: String,
        /// The log's id.
        found: String,
    },
    /// No projection has that name.
    #[error("there is no projection named {0}")]
    UnknownProjection(String),
    /// Something was not reached in time.
    #[error("{0} was not reached in time")]
    Timeout(String),
    /// The process is shutting down, or the committer has ended.
    #[error("the ledger is shutting down")]
    Closed,
    /// A simulated failure.
    #[error("simulated failure: {0}")]
    Simulated(&'static str),
}

impl Error {
    /// An error while decoding an event.
    pub fn decode(type_name: &str, detail: impl std::fmt::Display) -> Self {
        Error::Decode {
            type_name: type_name.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// Whether doing it again cannot help: what is stored, or the program, has to change first.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            Error::Corrupt { .. }
                | Error::Newer { .. }
                | Error::Decode { .. }
                | Error::Contract(_)
                | Error::Name { .. }
        )
    }

    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Error::Io {
            path: path.display().to_string(),
            source: Arc::new(source),
        }
    }

    /// Whether the same call may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Full { .. }
                | Error::Sql(_)
                | Error::Contended(_)
                | Error::Timeout(_)
                | Error::Closed
                | Error::Simulated(_)
        )
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Error::Sql(Arc::new(error))
    }
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError<R> {
    /// The decider said no. The answer is final: it was decided on durable state.
    #[error("the command was rejected")]
    Rejected(R),
    /// The queue is full: shed with RESOURCE_EXHAUSTED and a retry hint.
    #[error("too many commands are waiting: try again later")]
    Overloaded,
    /// The process is shutting down. Whether the command was carried out is unknown if it had been taken already.
    #[error("the ledger is shutting down")]
    Unavailable,
    /// Storage failed. Nothing of this command was written.
    #[error("{0}")]
    Storage(StorageError),
}

/// A storage error as callers get it: comparable by its text, so that results can be compared in tests.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(pub Error);

impl PartialEq for StorageError {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

impl Eq for StorageError {}

impl<R> From<Error> for ExecuteError<R> {
    fn from(error: Error) -> Self {
        match error {
            Error::Closed => ExecuteError::Unavailable,
            other => ExecuteError::Storage(StorageError(other)),
        }
    }
}
