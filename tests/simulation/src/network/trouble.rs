//! What goes wrong with a network, as long as it does.

use std::time::Duration;

use super::Network;

impl Network {
    /// Nothing arrives from `from` at `to` any more, until it is healed.
    pub fn cut(&self, from: &str, to: &str) {
        self.state().cut.insert((from.to_owned(), to.to_owned()));
    }

    /// Heals what was cut between two hosts.
    pub fn heal(&self, from: &str, to: &str) {
        let mut state = self.state();
        state.cut.remove(&(from.to_owned(), to.to_owned()));
        state.wake();
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Nothing leaves a host any more, and nothing arrives, until it thaws; then all of it does.
    pub fn freeze(&self, host: &str) {
        self.state().frozen.insert(host.to_owned());
    }

    /// Ends that.
    pub fn thaw(&self, host: &str) {
        let mut state = self.state();
        state.frozen.remove(host);
        state.wake();
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Who calls `name` from now on reaches one of these hosts: any of those that are up.
    pub fn serve(&self, name: &str, hosts: Vec<String>) {
        self.state().services.insert(name.to_owned(), hosts);
    }

    /// Everything arrives again, and quickly.
    pub fn heal_all(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.frozen.clear();
        state.slow.clear();
        state.wake();
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// From now on what a host sends takes up to so much longer.
    pub fn slow(&self, host: &str, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(0);
        self.state().slow.insert(host.to_owned(), millis);
    }

    /// Breaks every connection of two hosts; what is under way is lost.
    pub fn reset(&self, one: &str, other: &str) {
        self.state().connections.retain(|_, connection| {
            let between = connection.is_of(one) && connection.is_of(other);
            if between {
                connection.there.vanish(false);
                connection.back.vanish(false);
            }
            !between
        });
    }

    /// Whether nothing arrives from one host at another one.
    pub(super) fn is_cut(&self, from: &str, to: &str) -> bool {
        let state = self.state();
        (!state.cut.is_empty() && state.cut.contains(&(from.to_owned(), to.to_owned())))
            || [from, to].iter().any(|host| state.frozen.contains(*host))
    }
}
