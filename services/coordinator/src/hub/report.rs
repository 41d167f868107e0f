//! What operators and GetSaga are told about queues, streams, breakers and waits; and participants' settings.

use std::time::Duration;

use chassis::{breaker, timestamp};
use ledger::StreamId;
use sagamesh_api::saga::v1::{self as pb, BreakerState, Direction, StepState, WaitsOn};

use super::Hub;
use super::attempts::Place;
use crate::saga::Kind;

/// Settings of a participant, as they are on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Most commands under way at once; 0 for no limit.
    pub max_concurrency: u32,
    /// Commands are held back.
    pub paused: bool,
}

impl Hub {
    /// Makes a participant known, with its settings.
    pub fn set_participant(&mut self, name: &str, settings: Settings) {
        let at = self.participant(name);
        let participant = &mut self.participants[at];
        participant.known = true;
        participant.max_concurrency = settings.max_concurrency;
        participant.paused = settings.paused;
        self.touch(at);
    }

    /// Whether definitions may name this participant.
    pub fn knows(&self, name: &str) -> bool {
        self.by_name
            .get(name)
            .is_some_and(|at| self.participants[*at].known)
    }

    /// Names of all known participants, in alphabetical order.
    pub fn known_participants(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .participants
            .iter()
            .filter(|known| known.known)
            .map(|known| known.name.clone())
            .collect();
        names.sort_unstable();
        names
    }

    /// Whether an instance that handles this action is connected.
    pub fn has_handler(&self, participant: &str, action: &str) -> bool {
        let Some(at) = self.by_name.get(participant) else {
            return false;
        };
        let streams = self.participants[*at]
            .sessions
            .iter()
            .filter_map(|id| self.sessions.get(id));
        streams
            .filter(|session| session.takes_commands())
            .any(|session| session.handles(action))
    }

    /// A known participant with its streams, queues and breakers.
    pub fn describe_participant(&self, name: &str, now: i64) -> Option<pb::Participant> {
        let participant = &self.participants[*self.by_name.get(name)?];
        let streams = participant
            .sessions
            .iter()
            .filter_map(|id| self.sessions.get(id));
        let recovery = i64::try_from(self.options.breaker_recovery.as_millis()).unwrap_or(i64::MAX);
        let breakers = participant
            .breakers
            .iter()
            .filter_map(|(action, breaker)| describe_breaker(action, breaker, recovery, now));
        Some(pb::Participant {
            name: participant.name.clone(),
            max_concurrency: participant.max_concurrency,
            paused: participant.paused,
            in_flight: participant.in_flight,
            queued: u32::try_from(participant.queued).unwrap_or(u32::MAX),
            instances: streams
                .map(|session| pb::ParticipantInstance {
                    instance: session.instance.clone(),
                    actions: session.actions.clone(),
                    credits: session.credits,
                    in_flight: session.in_flight,
                    connect_time: Some(timestamp::from_millis(session.connected)),
                    draining: session.draining,
                })
                .collect(),
            breakers: breakers.collect(),
        })
    }

    /// Breakers that are open or probing, as (participant, action).
    pub fn open_breakers(&self) -> Vec<(String, String)> {
        let mut open = Vec::new();
        for participant in &self.participants {
            let tripped = participant
                .breakers
                .iter()
                .filter(|(_, breaker)| !matches!(breaker.state(), breaker::State::Closed { .. }));
            open.extend(tripped.map(|(action, _)| (participant.name.clone(), action.clone())));
        }
        open.sort_unstable();
        open
    }

    /// How many attempts and how many times an open saga waits for. With neither it waits for a signal or an operator.
    pub fn awaited(&self, stream: &StreamId) -> Option<(usize, usize)> {
        let entry = self.sagas.get(stream)?;
        Some((entry.attempts.len(), entry.timers.len()))
    }

    /// Fills in what each open step waits for.
    pub fn explain(&self, stream: &StreamId, saga: &mut pb::Saga) {
        let Some(entry) = self.sagas.get(stream) else {
            return;
        };
        for (index, step) in saga.steps.iter_mut().enumerate() {
            let (direction, waits) = match step.state() {
                StepState::Running => (Direction::Action, None),
                StepState::Compensating => (Direction::Compensation, None),
                StepState::BackingOff => (Direction::Action, Some(WaitsOn::Timer)),
                StepState::Parked => (Direction::Action, Some(WaitsOn::Operator)),
                StepState::Waiting => {
                    let kind = entry.routes.plan.steps().get(index).map(|step| &step.kind);
                    (
                        Direction::Action,
                        Some(if matches!(kind, Some(Kind::Signal { .. })) {
                            WaitsOn::Signal
                        } else {
                            WaitsOn::Timer
                        }),
                    )
                }
                _ => continue,
            };
            let waits = waits
                .unwrap_or_else(|| self.attempt_waits_on(entry.attempts.iter(), index, direction));
            step.set_waits_on(waits);
        }
    }

    fn attempt_waits_on<'a>(
        &self,
        tokens: impl Iterator<Item = &'a u64>,
        index: usize,
        direction: Direction,
    ) -> WaitsOn {
        let mut attempts = tokens.filter_map(|token| self.attempts.get(token));
        let Some(attempt) = attempts
            .find(|attempt| usize::from(attempt.step) == index && attempt.direction == direction)
        else {
            return WaitsOn::Result;
        };
        if !matches!(attempt.place, Place::Queued(_)) {
            return WaitsOn::Result;
        }
        let participant = &self.participants[attempt.participant];
        let queue = &participant.queues[attempt.queue];
        let mut streams = participant
            .sessions
            .iter()
            .filter_map(|id| self.sessions.get(id));
        if participant.paused {
            WaitsOn::Pause
        } else if !streams.any(|session| session.takes_commands() && session.handles(&queue.action))
        {
            WaitsOn::Stream
        } else if queue.is_held() {
            WaitsOn::Breaker
        } else if participant.is_full() {
            WaitsOn::Concurrency
        } else {
            WaitsOn::Credit
        }
    }
}

fn describe_breaker(
    action: &str,
    breaker: &chassis::Breaker,
    recovery: i64,
    now: i64,
) -> Option<pb::Breaker> {
    let (state, failures, retry_after) = match breaker.state() {
        breaker::State::Closed { .. } => return None,
        breaker::State::Open { since_millis } => {
            let since = i64::try_from(since_millis).unwrap_or(now);
            (
                BreakerState::Open,
                5,
                since.saturating_add(recovery).saturating_sub(now).max(0),
            )
        }
        breaker::State::Probing { .. } => (BreakerState::HalfOpen, 5, 0),
    };
    let left = Duration::from_millis(u64::try_from(retry_after).unwrap_or(0));
    Some(pb::Breaker {
        action: action.to_owned(),
        state: state.into(),
        failures,
        retry_after: Some(timestamp::from_duration(left)),
    })
}
