//! Names of streams.

use std::fmt;
use std::sync::Arc;

use crate::Error;

/// The longest name of a stream or an inbox row: an index of PostgreSQL takes keys of 2,700 bytes, and nobody needs that many.
pub(crate) const MAX_NAME_BYTES: usize = 1024;

/// Whether every store can keep a stream or an inbox row of this name. What one of them cannot, all refuse, and before a batch is made of it: the
/// batch would fail as a whole.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    if name.len() <= MAX_NAME_BYTES && !name.contains('\0') {
        return Ok(());
    }
    Err(Error::Name {
        name: name.chars().take(80).collect(),
    })
}

/// The name of a stream, for example `order/0198c5f0-...`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// A stream of any name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// `kind/key`, the usual form.
    pub fn of(kind: &str, key: impl fmt::Display) -> Self {
        Self(format!("{kind}/{key}").into())
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first `/`; the whole name if there is none.
    pub fn kind(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(kind, _)| kind)
    }

    /// What stands after the first `/`; empty if there is none.
    pub fn key(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, key)| key)
    }

    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl From<&str> for StreamId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for StreamId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl AsRef<str> for StreamId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
