//! Shards that go and come.

use std::collections::HashSet;

use super::*;

impl Bench {
    /// The saga of `start`, as another replica would find it.
    fn found(&self, stream: &StreamId) -> SagaState {
        self.started(stream.key()[2..].parse().expect("a number")).1
    }
}

#[test]
fn a_shard_leaves_with_all_its_sagas_and_says_what_was_never_sent() {
    let mut bench = Bench::new(&["a"]);
    let stream = bench.link("p1", &["a"]);
    for _ in 0..3 {
        bench.start();
    }
    let sent = bench.command(stream).expect("a command");
    bench.hub.hold(1, HashSet::new());
    let unsent = bench.hub.forget(0);
    bench.turn();
    assert_eq!(unsent.len(), 2);
    assert!(!unsent.contains(&sent.lease_token));
    assert_eq!(
        bench.next(stream),
        None,
        "what waited to be written is gone"
    );
    assert_eq!(
        (bench.hub.open_sagas(), bench.hub.active()),
        (0, Active::default())
    );
    assert_eq!(bench.hub.next_timer(), None);
    let p = bench.hub.describe_participant("p", NOW).expect("p");
    assert_eq!((p.in_flight, p.queued), (0, 0));
    // What still becomes durable of it is another replica's business.
    bench.start();
    assert_eq!(bench.hub.open_sagas(), 0);
    assert_eq!(bench.command(stream), None);
}

#[test]
fn only_what_was_never_sent_is_sent_by_the_next_owner() {
    let mut bench = Bench::new(&["a"]);
    let streams: Vec<StreamId> = (0..2).map(|_| bench.start()).collect();
    let unsent = bench.hub.forget(0);
    assert_eq!(unsent.len(), 2);
    let states: Vec<SagaState> = streams.iter().map(|saga| bench.found(saga)).collect();
    let token = |at: usize| {
        let newest = states[at].newest_attempt(0, pb::Direction::Action);
        newest.expect("one").1
    };
    assert!(unsent.contains(&token(0)) && unsent.contains(&token(1)));
    // The first one's is known never to have been sent.
    bench.hub.hold(0, HashSet::from([token(0)]));
    let stream = bench.link("p1", &["a"]);
    for (saga, state) in streams.iter().zip(&states) {
        let fresh = HashSet::new();
        assert!(bench.hub.recovered(saga, state, &fresh, NOW));
        assert!(!bench.hub.recovered(saga, state, &fresh, NOW), "once");
        bench.turn();
    }
    let command = bench.command(stream).expect("a command");
    assert_eq!(saga_stream(&command.saga_id), streams[0]);
    assert_eq!(command.lease_token, token(0));
    assert_eq!(
        bench.command(stream),
        None,
        "the other one may have been sent"
    );
    // Its result counts as if it had been sent from here.
    let late = Command {
        lease_token: token(1),
        saga_id: streams[1].key().to_owned(),
        ..command
    };
    bench.answer(&late, Outcome::Success(Success::default()));
}

#[test]
fn commands_stay_where_they_are_while_nothing_may_be_released_and_all_else_passes_them() {
    let mut bench = Bench::new(&["a"]);
    let stream = bench.link("p1", &["a"]);
    bench.start();
    bench.hub.acknowledge(stream, ResultAck::default());
    let poll = |bench: &mut Bench, may_release| {
        let mut more = VecDeque::new();
        let when = (bench.now, may_release);
        bench
            .hub
            .poll_outbox(stream, &mut more, Waker::noop(), when)
    };
    let written = |bench: &mut Bench, may_release| match poll(bench, may_release) {
        Poll::Ready(Ok(response)) => response.message.expect("a message"),
        other => panic!("nothing to write: {other:?}"),
    };
    assert!(matches!(written(&mut bench, false), Message::ResultAck(_)));
    for _ in 0..2 {
        assert!(poll(&mut bench, false).is_pending());
    }
    // A participant that hears nothing for long would connect anew.
    bench.hub.heartbeat(stream);
    assert!(matches!(written(&mut bench, false), Message::Heartbeat(_)));
    assert!(poll(&mut bench, false).is_pending());
    assert!(matches!(written(&mut bench, true), Message::Command(_)));
}

#[test]
fn a_saga_that_ended_while_it_was_asked_for_is_not_taken_in() {
    let mut bench = Bench::new(&["a"]);
    let streams: Vec<StreamId> = (0..2).map(|_| bench.start()).collect();
    bench.hub.forget(0);
    bench.hub.hold(0, HashSet::new());
    for saga in &streams {
        bench.hub.resuming(0, saga);
    }
    // Both were read as they are; then one of them ended, in the same batch.
    let states: Vec<SagaState> = streams.iter().map(|saga| bench.found(saga)).collect();
    let mut ended = bench.found(&streams[0]);
    let success = pb::Result {
        lease_token: ended
            .newest_attempt(0, pb::Direction::Action)
            .expect("one")
            .1,
        saga_id: streams[0].key().to_owned(),
        step: "a".to_owned(),
        direction: pb::Direction::Action.into(),
        outcome: Some(Outcome::Success(Success::default())),
    };
    let success = saga::Command::Result(Box::new(success));
    let event = bench.decided(&mut ended, &success, 0);
    let (hub, now) = (&mut bench.hub, bench.now);
    hub.committed(&streams[0], 2, &event, &ended, now);
    assert!(ended.has_ended());
    let taken = |at: usize, hub: &mut Hub| hub.resume(0, &streams[at], &states[at], now);
    assert_eq!((taken(0, hub), taken(1, hub)), (false, true));
    assert_eq!((hub.open_sagas(), hub.active().sagas), (1, 1));
    assert!(!hub.resume(0, &streams[1], &states[1], now), "once");
}

#[test]
fn streams_are_told_of_replicas_when_they_change() {
    let mut bench = Bench::new(&["a"]);
    let stream = bench.link("p1", &["a"]);
    let two = vec!["http://a".to_owned(), "http://b".to_owned()];
    bench.hub.set_peers(two.clone());
    bench.hub.set_peers(two.clone());
    let Some(Message::Peers(peers)) = bench.next(stream) else {
        panic!("no news")
    };
    assert_eq!(peers.addresses, two);
    assert_eq!(bench.next(stream), None, "once");
}
