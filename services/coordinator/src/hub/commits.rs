//! Events that became durable, and sagas found open at the start, turned into what is owed.

use std::collections::HashSet;
use std::sync::Arc;

use ledger::StreamId;
use sagamesh_api::saga::v1::{Direction, Phase, SagaEvent};

use super::attempts::{Attempt, Place};
use super::timers::Due;
use super::{Entry, Hub};
use crate::saga::{self, Effect, SagaState, StepPhase, Timer};
use crate::span;

impl Hub {
    /// An event of a saga became durable; `state` is the saga after it, and perhaps after later durable events.
    pub fn committed(
        &mut self,
        stream: &StreamId,
        version: u64,
        event: &SagaEvent,
        state: &SagaState,
        now: i64,
    ) {
        if !self.goes_on(stream, version, state) {
            return;
        }
        let Some(plan) = state.plan() else {
            return;
        };
        if !self.sagas.contains_key(stream) && !self.admit(stream, state, plan) {
            return;
        }
        self.close_settled(stream, state);
        let mut effects = std::mem::take(&mut self.effects);
        saga::effects(state, event, &mut effects);
        for effect in effects.drain(..) {
            self.apply(stream, state, effect, now);
        }
        self.effects = effects;
        self.judge_active(stream, state);
    }

    /// Takes a saga in; false if another replica runs it by now.
    fn admit(&mut self, stream: &StreamId, state: &SagaState, plan: &Arc<saga::Plan>) -> bool {
        let shard = state.shard().unwrap_or_default();
        if !self.shards.contains_key(&shard) {
            return false;
        }
        let routes = self.routes(plan);
        let entry = Entry {
            shard,
            routes,
            attempts: Vec::new(),
            timers: Vec::new(),
            active: true,
            bytes: state.kept_bytes(),
        };
        self.active.enter(&entry);
        self.sagas.insert(stream.clone(), entry);
        true
    }

    /// Whether something happened to a saga that was not met before: it was another replica's, or what happened to it was missed.
    pub fn is_unmet(&self, stream: &StreamId, state: &SagaState) -> bool {
        !state.has_ended() && !self.sagas.contains_key(stream)
    }

    /// An event of a saga became durable, and more happened to it since, elsewhere: only its state says what is owed.
    pub(crate) fn overtaken(
        &mut self,
        stream: &StreamId,
        version: u64,
        state: &SagaState,
        now: i64,
    ) {
        if self.goes_on(stream, version, state) {
            self.recovered(stream, state, &HashSet::new(), now);
        }
    }

    /// Tells those who follow a saga of an event; whether the saga goes on.
    fn goes_on(&mut self, stream: &StreamId, version: u64, state: &SagaState) -> bool {
        if self.has_watchers() {
            self.recorded(stream, version);
        }
        if state.has_ended() {
            self.ended(stream, state);
        }
        !state.has_ended()
    }

    /// A saga of a shard is being asked for, to be taken in with [`Hub::resume`].
    pub(crate) fn resuming(&mut self, shard: i64, stream: &StreamId) {
        if let Some(held) = self.shards.get_mut(&shard) {
            held.resuming.insert(stream.clone());
        }
    }

    /// A saga that was asked for is as it was when that was answered, or after. False if it has ended since, was met meanwhile, or is run elsewhere by now.
    pub(crate) fn resume(
        &mut self,
        shard: i64,
        stream: &StreamId,
        state: &SagaState,
        now: i64,
    ) -> bool {
        let held = self.shards.get_mut(&shard);
        held.is_some_and(|held| held.resuming.remove(stream))
            && self.recovered(stream, state, &HashSet::new(), now)
    }

    /// A saga was found open. Its recorded attempts count as sent, from now, except those that surely were not: those that its shard came with, and
    /// `fresh` ones. False if it was met before.
    pub fn recovered(
        &mut self,
        stream: &StreamId,
        state: &SagaState,
        fresh: &HashSet<u64>,
        now: i64,
    ) -> bool {
        let Some(plan) = state.plan() else {
            return false;
        };
        if !self.is_unmet(stream, state) || !self.admit(stream, state, plan) {
            return false;
        }
        let shard = state.shard().unwrap_or_default();
        for effect in saga::outstanding(state) {
            let mut is_unsent = |token: &u64| {
                let held = self.shards.get_mut(&shard);
                // Taken out: once it is queued here it may be sent.
                let handed = held.is_some_and(|held| held.unsent.remove(token));
                handed || fresh.contains(token)
            };
            match effect {
                Effect::Send {
                    step,
                    direction,
                    token,
                    ..
                } if is_unsent(&token) => {
                    self.enqueue(stream, state, (step, direction, token), now)
                }
                Effect::Settle { step, token, .. } if is_unsent(&token) => {
                    self.never_sent(stream, step, token)
                }
                Effect::Send {
                    step,
                    direction,
                    token,
                    ..
                } => self.assume_sent(stream, (step, direction, token), now),
                Effect::Settle { step, token, .. } => {
                    self.assume_sent(stream, (step, Direction::Action, token), now)
                }
                Effect::Timer { at, timer } => self.set_timer(stream, at, timer),
            }
        }
        self.judge_active(stream, state);
        true
    }

    fn never_sent(&mut self, stream: &StreamId, step: saga::StepIndex, token: u64) {
        let command = saga::Command::NeverSent {
            step,
            direction: Direction::Action,
            token,
        };
        self.out.commands.push((stream.clone(), command));
    }

    fn ended(&mut self, stream: &StreamId, state: &SagaState) {
        let shard = state.shard().unwrap_or_default();
        if let Some(held) = self.shards.get_mut(&shard) {
            held.resuming.remove(stream);
        }
        if let Some(entry) = self.sagas.remove(stream) {
            self.active.leave(&entry);
            for token in entry.attempts {
                self.close(token);
            }
            for (_, key) in entry.timers {
                self.timers.remove(key);
            }
            span::ended(stream.key(), state);
        }
        if !self.waiters.is_empty()
            && let Some(waiters) = self.waiters.remove(stream)
        {
            let saga = saga::describe(stream.key(), state);
            for waiter in waiters {
                // A caller that went away needs no answer.
                drop(waiter.send(saga.clone()));
            }
        }
    }

    /// Removes attempts and timers that the state no longer waits for.
    fn close_settled(&mut self, stream: &StreamId, state: &SagaState) {
        let Some(entry) = self.sagas.get_mut(stream) else {
            return;
        };
        let attempts = &self.attempts;
        let is_settled = |token: &mut u64| {
            attempts
                .get(token)
                .is_none_or(|attempt| !state.awaits(attempt.step, attempt.direction, *token))
        };
        let settled: Vec<u64> = entry.attempts.extract_if(.., is_settled).collect();
        let timers = &mut self.timers;
        entry.timers.retain(|(timer, key)| {
            let keep = is_awaited(state, *timer);
            if !keep {
                timers.remove(*key);
            }
            keep
        });
        for token in settled {
            self.close(token);
        }
    }

    fn apply(&mut self, stream: &StreamId, state: &SagaState, effect: Effect, now: i64) {
        match effect {
            Effect::Send {
                step,
                direction,
                token,
                ..
            } => self.enqueue(stream, state, (step, direction, token), now),
            Effect::Settle { token, .. } if self.attempts.contains_key(&token) => {
                self.settle(token);
            }
            // Started and aborted in one commit: it never left.
            Effect::Settle { step, token, .. } => self.never_sent(stream, step, token),
            Effect::Timer { at, timer } => self.set_timer(stream, at, timer),
        }
    }

    /// Puts a new attempt into its queue.
    fn enqueue(
        &mut self,
        stream: &StreamId,
        state: &SagaState,
        (step, direction, token): (saga::StepIndex, Direction, u64),
        now: i64,
    ) {
        if self.attempts.contains_key(&token) {
            return;
        }
        let Some(command) = saga::build_command(stream.key(), state, step, direction, now) else {
            return;
        };
        let Some((at, queue)) = self.add(
            stream,
            state.deadline(),
            (step, direction, token),
            Place::Queued(Box::new(command)),
            now,
        ) else {
            return;
        };
        let participant = &mut self.participants[at];
        participant.queues[queue].waiting.push_back(token);
        participant.queued += 1;
        self.touch(at);
    }

    fn assume_sent(
        &mut self,
        stream: &StreamId,
        (step, direction, token): (saga::StepIndex, Direction, u64),
        now: i64,
    ) {
        let Some((at, _)) = self.add(
            stream,
            None,
            (step, direction, token),
            Place::Sent(None),
            now,
        ) else {
            return;
        };
        self.participants[at].in_flight += 1;
        if let Some(attempt) = self.attempts.get_mut(&token) {
            attempt.timer = Some(self.timers.set(attempt.expires().0, Due::Attempt(token)));
        }
    }

    fn add(
        &mut self,
        stream: &StreamId,
        deadline: Option<i64>,
        (step, direction, token): (saga::StepIndex, Direction, u64),
        place: Place,
        now: i64,
    ) -> Option<(usize, usize)> {
        let entry = self.sagas.get_mut(stream)?;
        let (participant, queue) = entry.routes.of(step, direction)?;
        let plan = entry.routes.plan.step(step);
        let call = plan.call()?;
        entry.attempts.push(token);
        let attempt = Attempt {
            saga: stream.clone(),
            step,
            direction,
            participant,
            queue,
            place,
            timeout: call.timeout_millis,
            latest: deadline
                .filter(|_| matches!(plan.phase, Phase::Compensatable | Phase::ReadOnly)),
            heartbeat: call.heartbeat_timeout_millis,
            sent: now,
            beat: now,
            timer: None,
            permit: None,
            answered: false,
        };
        self.attempts.insert(token, attempt);
        Some((participant, queue))
    }

    fn set_timer(&mut self, stream: &StreamId, at: i64, timer: Timer) {
        let Some(entry) = self.sagas.get_mut(stream) else {
            return;
        };
        let key = self.timers.set(at, Due::Saga(stream.clone(), timer));
        match entry.timers.iter_mut().find(|(set, _)| *set == timer) {
            Some((_, old)) => self.timers.remove(std::mem::replace(old, key)),
            None => entry.timers.push((timer, key)),
        }
    }

    /// A saga is active while an attempt is owed or a backoff runs; else it waits and counts against no limit.
    fn judge_active(&mut self, stream: &StreamId, state: &SagaState) {
        if let Some(entry) = self.sagas.get_mut(stream) {
            self.active.leave(entry);
            entry.bytes = state.kept_bytes();
            entry.active = !entry.attempts.is_empty()
                || entry
                    .timers
                    .iter()
                    .any(|(timer, _)| matches!(timer, Timer::Retry { .. }));
            self.active.enter(entry);
        }
    }

    /// Takes timers that are due, at most `limit`; what they ask for is in [`super::Out`]. Whether more are due.
    pub fn fire(&mut self, now: i64, limit: usize) -> bool {
        for _ in 0..limit {
            match self.timers.pop(now) {
                None => return false,
                Some(Due::Attempt(token)) => self.expired(token, now),
                Some(Due::Probe(at, queue)) => {
                    self.participants[at].queues[queue].probe_set = false;
                    self.touch(at);
                }
                Some(Due::Saga(stream, timer)) => {
                    if let Some(entry) = self.sagas.get_mut(&stream) {
                        entry.timers.retain(|(set, _)| *set != timer);
                    }
                    self.out.commands.push((stream, timer.command()));
                }
            }
        }
        true
    }

    /// A timer's command was refused as too early (the clock was set back): asks again at `due`.
    pub fn ask_again(&mut self, stream: &StreamId, timer: Timer, due: i64) {
        self.set_timer(stream, due, timer);
    }

    /// How many open sagas run a plan.
    pub fn runs(&self, plan: &Arc<saga::Plan>) -> usize {
        // Each open saga holds its plan's routes, and the map holds them once.
        self.routes
            .get(&Arc::as_ptr(plan).addr())
            .map_or(0, |routes| Arc::strong_count(routes).saturating_sub(1))
    }
}

/// Whether the state still waits for a timer that was set earlier.
fn is_awaited(state: &SagaState, timer: Timer) -> bool {
    match timer {
        Timer::Retry {
            step,
            direction: Direction::Compensation,
        } => state.step_phase(step) == Some(StepPhase::UndoBackingOff),
        Timer::Retry { step, .. } => state.step_phase(step) == Some(StepPhase::BackingOff),
        Timer::Delay { step } | Timer::Signal { step } => {
            state.step_phase(step) == Some(StepPhase::Waiting)
        }
        Timer::Deadline => !state.is_aborting() && !state.deadline_missed(),
        Timer::Stall { step } => {
            let watched = state.plan().is_some_and(|plan| {
                matches!(plan.step(step).phase, Phase::Pivot | Phase::Retriable)
            });
            watched
                && matches!(
                    state.step_phase(step),
                    Some(StepPhase::Running | StepPhase::BackingOff | StepPhase::Lapsed)
                )
        }
    }
}
