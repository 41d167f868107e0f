//! One port of the app, as one thread knows it: the policy that applies now, and the app itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::app::App;
use crate::control::FIRST_ANSWER;
use crate::io::TcpCounts;
use crate::metrics::Registry;
use crate::policy::inbound::ServerPolicy;

/// One port of the app.
#[derive(Debug)]
pub(crate) struct Port {
    /// Its number.
    pub(super) number: u16,
    /// Where the app listens.
    pub(super) address: SocketAddr,
    counts: TcpCounts,
    /// The app, by the peer that it is for.
    apps: Mutex<HashMap<Arc<str>, Arc<App>>>,
    /// Metrics.
    pub(super) registry: Registry,
    /// When the control plane was first asked for the policy, as far as this thread knows.
    asked: Instant,
    updates: Mutex<watch::Receiver<Arc<ServerPolicy>>>,
}

impl Port {
    pub(super) fn new(
        shared: &Shared,
        number: u16,
        updates: watch::Receiver<Arc<ServerPolicy>>,
    ) -> Self {
        let address = SocketAddr::new(shared.app, number);
        Self {
            number,
            counts: App::counts(&shared.registry),
            address,
            apps: Mutex::default(),
            registry: shared.registry.clone(),
            asked: Instant::now(),
            updates: Mutex::new(updates),
        }
    }

    /// The app, as this peer reaches it.
    pub(super) fn app(&self, peer: &Arc<str>) -> Arc<App> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(App::new(self.address, self.counts.clone()));
        Arc::clone(apps.entry(Arc::clone(peer)).or_insert_with(made))
    }

    /// Lets go of connections to the app for peers that are gone.
    pub(super) fn forget_idle(&self) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.retain(|_, app| Arc::strong_count(app) > 1);
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

    /// Waits for the control plane's first answer, if it was only just asked. To deny what it is about to allow would
    /// fail the first requests of each start.
    pub(super) async fn settled(&self) {
        let mut updates = self.follow();
        let first = updates.wait_for(|policy| policy.answered);
        // Whether or not it came: from now on that applies which applies.
        let _ = tokio::time::timeout_at(self.asked + FIRST_ANSWER, first).await;
    }

    /// Follows the policy apart from others: each change of it is seen, from now on.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<ServerPolicy>> {
        self.updates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
