//! Shards that come and go, with all their sagas; and the other replicas, as participants are told of them.

use std::collections::HashSet;

use ledger::StreamId;
use sagamesh_api::saga::v1::Peers;
use sagamesh_api::saga::v1::participate_response::Message;

use super::attempts::Place;
use super::session::SessionId;
use super::{Hub, Shard};

impl Hub {
    /// Sagas of this shard are run here from now on. `unsent` names attempts that are on record and surely were never sent.
    pub(crate) fn hold(&mut self, shard: i64, unsent: HashSet<u64>) {
        let held = Shard {
            unsent,
            resuming: HashSet::new(),
            resumed: None,
        };
        self.shards.insert(shard, held);
    }

    /// Every open saga of this shard was taken in, but those whose records cannot be read.
    pub(crate) fn resumed(&mut self, shard: i64, unreadable: usize) {
        if let Some(held) = self.shards.get_mut(&shard) {
            held.resumed = Some(unreadable);
        }
    }

    /// Open sagas whose records cannot be read.
    pub(crate) fn unreadable(&self) -> usize {
        self.shards.values().filter_map(|held| held.resumed).sum()
    }

    /// Whether every open saga of this shard is known here.
    pub fn is_resumed(&self, shard: i64) -> bool {
        self.shards
            .get(&shard)
            .is_some_and(|held| held.resumed.is_some())
    }

    /// Every shard whose sagas are run here.
    pub(crate) fn shards_held(&self) -> Vec<i64> {
        self.shards.keys().copied().collect()
    }

    /// Sagas of this shard are run by another replica from now on: nothing of them is sent any more, and no time of theirs is waited for. Returns the
    /// tokens of attempts that were recorded and surely never sent.
    pub(crate) fn forget(&mut self, shard: i64) -> Vec<u64> {
        // Of what it came with, that of sagas that were not met meanwhile.
        let held = self.shards.remove(&shard).into_iter();
        let mut unsent: Vec<u64> = held.flat_map(|held| held.unsent).collect();
        unsent.sort_unstable();
        let of_shard = |(stream, entry): (&StreamId, &super::Entry)| {
            (entry.shard == shard).then(|| stream.clone())
        };
        let mut streams: Vec<StreamId> = self.sagas.iter().filter_map(of_shard).collect();
        // What is closed is closed in the same order each time.
        streams.sort_unstable();
        for stream in streams {
            let Some(entry) = self.sagas.remove(&stream) else {
                continue;
            };
            self.active.leave(&entry);
            for token in entry.attempts {
                let place = self.attempts.get(&token).map(|attempt| &attempt.place);
                if matches!(place, Some(Place::Queued(_) | Place::Outbox(_))) {
                    unsent.push(token);
                }
                self.close(token);
            }
            for (_, key) in entry.timers {
                self.timers.remove(key);
            }
            // Whoever waits for its end asks the new owner.
            self.waiters.remove(&stream);
        }
        unsent
    }

    /// The addresses of all replicas, this one included. Participants are told when they change.
    pub(crate) fn set_peers(&mut self, peers: Vec<String>) {
        if self.peers == peers {
            return;
        }
        self.peers = peers;
        for id in self.every_session() {
            let addresses = self.peers.clone();
            self.send(id, Message::Peers(Peers { addresses }));
        }
    }

    /// Commands may be handed out again.
    pub(crate) fn wake_all(&mut self) {
        let all = self.every_session();
        self.woken.extend(all);
    }

    pub(super) fn every_session(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }
}
