//! Streams that come and go, and what becomes of the commands and breakers meanwhile.

mod moving;

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use sagamesh_api::saga::v1::participate_response::Message;
use sagamesh_api::saga::v1::{
    Call, Command, Definition, Failure, Hello, Phase, ResultAck, SagaEvent, Step, Success, Welcome,
    result::Outcome, step,
};

use super::*;
use crate::decider::saga_stream;
use crate::saga::{SagaState, Start, decide, evolve};

const NOW: i64 = 1_000_000;
const RECOVERY: i64 = 10_000;

struct Bench {
    hub: Hub,
    plan: Arc<Plan>,
    now: i64,
    sagas: u64,
}

impl Bench {
    /// Sagas of these steps, all at once, done by participant p.
    fn new(steps: &[&str]) -> Self {
        let step = |name: &&str| Step {
            name: (*name).to_owned(),
            phase: Phase::Compensatable.into(),
            kind: Some(step::Kind::Call(Call {
                participant: "p".to_owned(),
                action: format!("do.{name}"),
                compensation: format!("undo.{name}"),
                ..Call::default()
            })),
            ..Step::default()
        };
        let definition = Definition {
            name: "test".to_owned(),
            steps: steps.iter().map(step).collect(),
            ..Definition::default()
        };
        let breaker_recovery = Duration::from_millis(RECOVERY.unsigned_abs());
        let mut hub = Hub::new(HubOptions { breaker_recovery });
        hub.hold(0, HashSet::new());
        Self {
            hub,
            plan: Arc::new(Plan::compile(&definition).expect("a valid definition")),
            now: NOW,
            sagas: 0,
        }
    }

    fn start(&mut self) -> StreamId {
        self.sagas += 1;
        let (event, state) = self.started(self.sagas);
        let stream = saga_stream(&format!("s-{}", self.sagas));
        self.hub.committed(&stream, 1, &event, &state, self.now);
        self.turn();
        stream
    }

    /// How the saga of this number starts.
    fn started(&self, number: u64) -> (SagaEvent, SagaState) {
        let mut state = SagaState::new();
        let start = saga::Command::Start(Box::new(Start::plain(&self.plan)));
        let event = self.decided(&mut state, &start, number << 32);
        (event, state)
    }

    /// What is recorded of a command; the state is the one after it.
    fn decided(&self, state: &mut SagaState, command: &saga::Command, seed: u64) -> SagaEvent {
        let event = SagaEvent {
            version: 0,
            event_time: Some(chassis::timestamp::from_millis(self.now)),
            transitions: decide(state, command, self.now, seed).expect("decided"),
        };
        evolve(state, &event, &self.plan).expect("evolved");
        event
    }

    fn turn(&mut self) -> Out {
        self.hub.take_out(self.now).0
    }

    fn later(&mut self, millis: i64) {
        self.now += millis;
        self.hub.fire(self.now, 1_000);
        self.turn();
    }

    fn link(&mut self, instance: &str, actions: &[&str]) -> SessionId {
        let hello = Hello {
            participant: "p".to_owned(),
            instance: instance.to_owned(),
            actions: actions.iter().map(|name| format!("do.{name}")).collect(),
            credits: 100,
            ..Hello::default()
        };
        let replaced = tonic::Status::aborted("replaced");
        let id = self.hub.open(hello, Welcome::default(), replaced, self.now);
        self.turn();
        assert!(matches!(self.next(id), Some(Message::Welcome(_))));
        id
    }

    /// What the transport of a stream takes next.
    fn next(&mut self, id: SessionId) -> Option<Message> {
        let mut more = VecDeque::new();
        let polled = self
            .hub
            .poll_outbox(id, &mut more, Waker::noop(), (self.now, true));
        assert!(more.is_empty());
        match polled {
            Poll::Ready(Ok(response)) => response.message,
            _ => None,
        }
    }

    fn command(&mut self, id: SessionId) -> Option<Command> {
        match self.next(id) {
            Some(Message::Command(command)) => Some(command),
            _ => None,
        }
    }

    fn answer(&mut self, command: &Command, outcome: Outcome) {
        let result = pb::Result {
            lease_token: command.lease_token,
            saga_id: command.saga_id.clone(),
            step: command.step.clone(),
            direction: command.direction,
            outcome: Some(outcome),
        };
        let reported = self.hub.reported(&result);
        assert!(matches!(reported, Reported::Live(_)), "{reported:?}");
        self.turn();
    }

    /// Five failures of the first step.
    fn trip(&mut self, id: SessionId) {
        for _ in 0..5 {
            self.start();
            let command = self.command(id).expect("a command");
            self.answer(&command, transient("DOWN"));
        }
        assert_eq!(self.hub.open_breakers().len(), 1);
    }
}

fn transient(reason: &str) -> Outcome {
    Outcome::Transient(Failure {
        reason: reason.to_owned(),
        ..Failure::default()
    })
}

#[test]
fn commands_that_were_not_written_go_elsewhere_when_a_stream_is_dropped() {
    let mut bench = Bench::new(&["a"]);
    let first = bench.link("p1", &["a"]);
    for _ in 0..3 {
        bench.start();
    }
    let written = bench.command(first).expect("a command");
    bench.hub.forget_session(first);
    let second = bench.link("p2", &["a"]);
    let mut moved = Vec::new();
    while let Some(command) = bench.command(second) {
        assert_ne!(command.lease_token, written.lease_token);
        moved.push(command.saga_id);
    }
    assert_eq!(moved, ["s-2", "s-3"], "in their order");
    assert!(bench.hub.open_breakers().is_empty());
}

#[test]
fn commands_that_were_not_written_go_elsewhere_when_an_instance_drains() {
    let mut bench = Bench::new(&["a"]);
    let first = bench.link("p1", &["a"]);
    for _ in 0..3 {
        bench.start();
    }
    let written = bench.command(first).expect("a command");
    let second = bench.link("p2", &["a"]);
    bench.hub.drain_session(first);
    bench.turn();
    assert_eq!(bench.next(first), None);
    for wanted in ["s-2", "s-3"] {
        assert_eq!(bench.command(second).expect("a command").saga_id, wanted);
    }
    let one = bench.hub.describe_participant("p", NOW).expect("p");
    let in_flight: Vec<u32> = one.instances.iter().map(|one| one.in_flight).collect();
    assert_eq!((one.in_flight, one.queued, in_flight), (3, 0, vec![1, 2]));
    bench.answer(&written, Outcome::Success(Success::default()));
}

#[test]
fn a_stream_that_declines_does_not_open_the_breaker_and_gets_no_more() {
    for reason in ["DRAINING", "ACTION_NOT_REGISTERED"] {
        let mut bench = Bench::new(&["a"]);
        let first = bench.link("p1", &["a"]);
        for _ in 0..8 {
            bench.start();
        }
        let written: Vec<Command> = (0..6).filter_map(|_| bench.command(first)).collect();
        if reason == "DRAINING" {
            bench.hub.drain_session(first);
        }
        for command in &written {
            bench.answer(command, transient(reason));
        }
        assert!(bench.hub.open_breakers().is_empty(), "{reason}");
        bench.start();
        let second = bench.link("p2", &["a"]);
        let mut last = None;
        while let Some(command) = bench.command(second) {
            last = Some(command.saga_id);
        }
        assert_eq!(last.as_deref(), Some("s-9"), "{reason}");
    }
}

#[test]
fn a_probe_fails_with_its_stream() {
    let mut bench = Bench::new(&["a"]);
    let first = bench.link("p1", &["a"]);
    bench.trip(first);
    let waiting = bench.start();
    assert_eq!(bench.command(first), None);
    bench.later(RECOVERY);
    let probe = bench.command(first).expect("a probe");
    assert_eq!(saga_stream(&probe.saga_id), waiting);
    bench.hub.forget_session(first);
    bench.start();
    let second = bench.link("p2", &["a"]);
    assert_eq!(bench.command(second), None, "the breaker is open again");
    bench.later(RECOVERY);
    let probe = bench.command(second).expect("another probe");
    bench.answer(&probe, Outcome::Success(Success::default()));
    assert!(bench.hub.open_breakers().is_empty());
}

#[test]
fn a_probe_that_was_never_written_is_no_answer() {
    let mut bench = Bench::new(&["a"]);
    let first = bench.link("p1", &["a"]);
    bench.trip(first);
    bench.start();
    bench.later(RECOVERY);
    bench.hub.forget_session(first);
    assert_eq!(bench.hub.open_breakers().len(), 1, "nothing was learned");
    let second = bench.link("p2", &["a"]);
    assert!(bench.command(second).is_some(), "the probe goes at once");
}

#[test]
fn each_breaker_has_its_own_time() {
    let mut bench = Bench::new(&["a", "b"]);
    let first = bench.link("p1", &["a", "b"]);
    let fail_all = |bench: &mut Bench, step: &str| {
        let mut open = 0;
        while let Some(command) = bench.command(first) {
            if command.step == step {
                bench.answer(&command, transient("DOWN"));
                open += 1;
            } else {
                bench.answer(&command, Outcome::Success(Success::default()));
            }
        }
        open
    };
    for _ in 0..5 {
        bench.start();
    }
    assert_eq!(fail_all(&mut bench, "a"), 5);
    bench.later(RECOVERY / 2);
    for _ in 0..5 {
        bench.start();
    }
    assert_eq!(fail_all(&mut bench, "b"), 5);
    assert_eq!(bench.hub.open_breakers().len(), 2);
    bench.start();
    bench.later(RECOVERY / 2);
    assert_eq!(bench.command(first).expect("a probe of a").step, "a");
    assert_eq!(bench.command(first), None);
    bench.later(RECOVERY / 2);
    assert_eq!(bench.command(first).expect("a probe of b").step, "b");
}

#[test]
fn running_attempts_that_are_closed_say_nothing_about_the_participant() {
    let mut bench = Bench::new(&["a"]);
    let first = bench.link("p1", &["a"]);
    for _ in 0..6 {
        bench.start();
        let command = bench.command(first).expect("a command");
        bench.hub.close(command.lease_token);
        bench.turn();
    }
    assert!(bench.hub.open_breakers().is_empty());
}

#[test]
fn a_peer_that_reads_no_acknowledgements_is_given_up() {
    let mut bench = Bench::new(&["a"]);
    let first = bench.link("p1", &["a"]);
    let mut taken = 0;
    while bench.hub.received(first) {
        bench.hub.acknowledge(first, ResultAck::default());
        taken += 1;
        assert!(taken < 100_000);
    }
    assert_eq!(taken, 16_384);
    assert_eq!(bench.next(first), None, "what it did not read is dropped");
    let second = bench.link("p2", &["a"]);
    for _ in 0..taken + 10 {
        assert!(bench.hub.received(second));
        bench.hub.acknowledge(second, ResultAck::default());
        assert!(bench.next(second).is_some());
    }
}
