//! One port of the app, as one thread knows it: the policy that applies now, and the app itself.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::Shared;
use super::app::App;
use crate::metrics::Registry;
use crate::policy::inbound::ServerPolicy;

/// One port of the app.
#[derive(Debug)]
pub(crate) struct Port {
    /// Its number.
    pub(super) number: u16,
    /// The app.
    pub(super) app: Arc<App>,
    /// Metrics.
    pub(super) registry: Registry,
    updates: Mutex<watch::Receiver<Arc<ServerPolicy>>>,
}

impl Port {
    pub(super) fn new(
        shared: &Shared,
        number: u16,
        updates: watch::Receiver<Arc<ServerPolicy>>,
    ) -> Self {
        Self {
            number,
            app: Arc::new(App::new(shared, number)),
            registry: shared.registry.clone(),
            updates: Mutex::new(updates),
        }
    }

    /// The policy that applies now, if it is not `known` any more.
    pub(super) fn changed(&self, known: &Arc<ServerPolicy>) -> Option<Arc<ServerPolicy>> {
        let updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        let now = updates.borrow();
        (!Arc::ptr_eq(&now, known)).then(|| Arc::clone(&now))
    }

    /// The policy that applies now.
    pub(super) fn policy(&self) -> Arc<ServerPolicy> {
        let updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&updates.borrow())
    }

    /// Follows the policy apart from others: each change of it is seen, from now on.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<ServerPolicy>> {
        self.updates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
