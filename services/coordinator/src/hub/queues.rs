//! Participants and their queues: one FIFO per action, direction and urgency, for new and returned work.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use chassis::{Breaker, breaker};
use metrics::{Counter, Gauge};
use sagamesh_api::saga::v1::Direction;

use super::session::SessionId;

/// Failures in a row that open a breaker.
const BREAKER_FAILURES: u32 = 5;

/// A known, or once seen, participant.
#[derive(Debug)]
pub(crate) struct Participant {
    pub(crate) name: String,
    pub(crate) known: bool,
    pub(crate) max_concurrency: u32,
    pub(crate) paused: bool,
    pub(crate) in_flight: u32,
    pub(crate) queued: usize,
    pub(crate) queues: Vec<Queue>,
    /// Connected streams, in the order in which they connected.
    pub(crate) sessions: Vec<SessionId>,
    pub(crate) breakers: BTreeMap<String, Breaker>,
    /// Where the next round over the queues begins.
    pub(crate) next_queue: usize,
    pub(crate) next_session: usize,
    pub(crate) dirty: bool,
    pub(crate) meters: Meters,
}

/// Metric handles of a participant.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) queued: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) credits: Gauge,
    pub(crate) streams: Gauge,
}

impl Meters {
    fn new(participant: &str) -> Self {
        let gauge =
            |name: &'static str| metrics::gauge!(name, "participant" => participant.to_owned());
        Self {
            queued: gauge("saga_queue_length"),
            in_flight: gauge("saga_attempts_in_flight"),
            credits: gauge("saga_participant_credits"),
            streams: gauge("saga_participant_streams"),
        }
    }
}

impl Participant {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            known: false,
            max_concurrency: 0,
            paused: false,
            in_flight: 0,
            queued: 0,
            queues: Vec::new(),
            sessions: Vec::new(),
            breakers: BTreeMap::new(),
            next_queue: 0,
            next_session: 0,
            dirty: false,
            meters: Meters::new(name),
        }
    }

    /// Whether its concurrency limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.max_concurrency > 0 && self.in_flight >= self.max_concurrency
    }

    /// The queue for such work; made when it is asked for the first time.
    pub(crate) fn queue(
        &mut self,
        action: &str,
        direction: Direction,
        urgent: bool,
        recovery: Duration,
    ) -> usize {
        let same = |queue: &Queue| {
            queue.action == action && queue.direction == direction && queue.urgent == urgent
        };
        if let Some(at) = self.queues.iter().position(same) {
            return at;
        }
        // Compensations are never held back by a breaker: undoing must go on, and their own backoff limits them.
        let breaker = (direction == Direction::Action).then(|| {
            self.breakers
                .entry(action.to_owned())
                .or_insert_with(|| Breaker::new(BREAKER_FAILURES, recovery))
                .clone()
        });
        self.queues
            .push(Queue::new(&self.name, action, direction, urgent, breaker));
        self.queues.len() - 1
    }
}

/// Work of one kind that waits for a credit.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) action: String,
    pub(crate) direction: Direction,
    pub(crate) urgent: bool,
    /// Tokens. One whose attempt is gone is skipped.
    pub(crate) waiting: VecDeque<u64>,
    pub(crate) breaker: Option<Breaker>,
    /// A timer is set for when the breaker may let a probe through.
    pub(crate) probe_set: bool,
    pub(crate) attempts: Counter,
    pub(crate) outcomes: Outcomes,
}

/// Counters of how attempts ended.
#[derive(Debug)]
pub(crate) struct Outcomes {
    pub(crate) success: Counter,
    pub(crate) rejection: Counter,
    pub(crate) transient: Counter,
    pub(crate) unknown: Counter,
}

impl Queue {
    fn new(
        participant: &str,
        action: &str,
        direction: Direction,
        urgent: bool,
        breaker: Option<Breaker>,
    ) -> Self {
        let counter = |outcome: &'static str| {
            let labels = [
                ("participant", participant.to_owned()),
                ("action", action.to_owned()),
                ("outcome", outcome.to_owned()),
            ];
            metrics::counter!("saga_attempt_outcomes_total", &labels)
        };
        let attempts = metrics::counter!("saga_attempts_total", "participant" => participant.to_owned(), "action" => action.to_owned());
        Self {
            action: action.to_owned(),
            direction,
            urgent,
            waiting: VecDeque::new(),
            breaker,
            probe_set: false,
            attempts,
            outcomes: Outcomes {
                success: counter("success"),
                rejection: counter("rejection"),
                transient: counter("transient"),
                unknown: counter("unknown"),
            },
        }
    }

    /// Whether its breaker holds work back.
    pub(crate) fn is_held(&self) -> bool {
        self.breaker
            .as_ref()
            .is_some_and(|breaker| !matches!(breaker.state(), breaker::State::Closed { .. }))
    }
}

/// Hashes lease tokens by themselves: they are random already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokenHasher(u64);

impl std::hash::Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, token: u64) {
        // The table takes its buckets from the low bits and its tags from the high ones.
        self.0 = token.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A map by lease token.
pub(crate) type ByToken<T> = HashMap<u64, T, std::hash::BuildHasherDefault<TokenHasher>>;
