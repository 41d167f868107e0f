//! Requests that the sidecar answered itself because something failed: `inbound_http_errors_total`,
//! `outbound_http_errors_total`.

use std::sync::OnceLock;

use super::{Counter, Labels, Registry};
use crate::error::ProxyError;

/// What failed, as Linkerd's proxy names it.
const KINDS: [&str; 5] = [
    "failfast",
    "loadshed",
    "i/o",
    "response timeout",
    "unexpected",
];

/// Errors on one side, with one set of labels.
#[derive(Debug)]
pub(crate) struct Errors {
    registry: Registry,
    name: &'static str,
    labels: Labels,
    by_kind: [OnceLock<Counter>; KINDS.len()],
}

impl Errors {
    /// The family `name` with these labels and the kind.
    pub(crate) fn new(registry: &Registry, name: &'static str, labels: Labels) -> Self {
        Self {
            registry: registry.clone(),
            name,
            labels,
            by_kind: [const { OnceLock::new() }; KINDS.len()],
        }
    }

    /// Counts an error, unless a policy wanted it: those have families of their own.
    pub(crate) fn count(&self, error: &ProxyError) {
        let Some(kind) = kind(error) else { return };
        self.by_kind[kind]
            .get_or_init(|| self.find(kind))
            .increment();
    }

    fn find(&self, kind: usize) -> Counter {
        let labels = Labels::new().with("error", KINDS[kind]).and(&self.labels);
        self.registry.counter(
            self.name,
            "Requests that could not be processed due to an error of the proxy.",
            &labels,
        )
    }
}

/// An index into [`KINDS`].
fn kind(error: &ProxyError) -> Option<usize> {
    match error {
        ProxyError::Unauthorized
        | ProxyError::RateLimited
        | ProxyError::NoRoute
        | ProxyError::Injected { .. }
        | ProxyError::Redirect { .. } => None,
        ProxyError::FailFast(_) => Some(0),
        ProxyError::LoadShed(_) => Some(1),
        ProxyError::Transport(_) => Some(2),
        ProxyError::RequestTimeout(_)
        | ProxyError::ResponseTimeout(_)
        | ProxyError::IdleTimeout(_)
        | ProxyError::TryTimeout(_) => Some(3),
        ProxyError::NoBackend(_)
        | ProxyError::UnknownDestination(_)
        | ProxyError::NoDestination
        | ProxyError::InvalidPolicy(_) => Some(4),
    }
}
