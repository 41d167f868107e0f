//! What both kinds of policy are made of.

use std::time::Duration;

/// Why a message of the control plane cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// A field without which the message means nothing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field with an unusable value.
    #[error("{0}: {1}")]
    Value(&'static str, String),
    /// Something that this sidecar does not do.
    #[error("{0} is not supported by this sidecar")]
    Unsupported(&'static str),
}

impl Invalid {
    pub(crate) const fn missing(field: &'static str) -> Self {
        Self::Missing(field)
    }

    pub(crate) fn value(field: &'static str, why: impl ToString) -> Self {
        Self::Value(field, why.to_string())
    }
}

/// A time that is not negative.
pub(crate) fn duration(
    field: &'static str,
    time: prost_types::Duration,
) -> Result<Duration, Invalid> {
    time.try_into()
        .map_err(|_| Invalid::value(field, "a negative time"))
}

/// A time that may be absent.
pub(crate) fn optional(
    field: &'static str,
    time: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Invalid> {
    time.map(|time| duration(field, time)).transpose()
}
