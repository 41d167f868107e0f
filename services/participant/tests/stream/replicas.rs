//! Several coordinators.

use super::*;

#[tokio::test]
async fn peers_that_welcome_names_are_served_too() {
    let mut first = ScriptedCoordinator::start().await;
    let mut second = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let running = holding(&first.url()).builder.run(&tasks).unwrap();
    let stream = first.accept().await;
    stream.welcome(Welcome {
        coordinator: "a".into(),
        peers: vec![first.url(), second.url()],
        ..Welcome::default()
    });
    let other = second.welcome().await;
    assert_eq!(other.hello.participant, "holding");
    assert!(matches!(
        other
            .run(command(1, "saga", "echo", Direction::Action, &[]))
            .await,
        result::Outcome::Success(_)
    ));
    assert_eq!(running.streams(), 2);
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// A participant with a stream to each of two replicas.
async fn with_two_replicas(
    tasks: &Tasks,
) -> (
    [(ScriptedCoordinator, ScriptedStream); 2],
    Holding,
    participant::Running,
) {
    let mut first = ScriptedCoordinator::start().await;
    let mut second = ScriptedCoordinator::start().await;
    let mut holding = holding(&first.url());
    let builder = std::mem::replace(
        &mut holding.builder,
        Participant::builder("other", "http://127.0.0.1:1", &Env::system()),
    );
    let running = builder.run(tasks).unwrap();
    let stream = first.accept().await;
    let both = Welcome {
        peers: vec![first.url(), second.url()],
        ..Welcome::default()
    };
    stream.welcome(both.clone());
    let other = second.accept().await;
    other.welcome(both);
    (((first, stream), (second, other)).into(), holding, running)
}

#[tokio::test]
async fn results_go_to_another_replica_when_their_own_is_gone() {
    let tasks = Tasks::new();
    let ([(first, stream), (_second, other)], mut holding, running) =
        with_two_replicas(&tasks).await;
    // One has ended and is not acknowledged, one is under way.
    stream.command(command(
        1,
        "saga",
        "echo",
        Direction::Action,
        &[("word", "one")],
    ));
    assert_eq!(stream.result().await.lease_token, 1);
    let timeout = prost_types::Duration {
        seconds: 0,
        nanos: 60_000_000,
    };
    stream.command(Command {
        heartbeat_timeout: Some(timeout),
        ..hold(2)
    });
    assert_eq!(holding.runs.recv().await, Some(2));
    drop(stream);
    first.stop().await;
    let one = other.result().await;
    assert_eq!(one.lease_token, 1);
    other.ack(&one, ResultStatus::Accepted);
    // Whoever has taken over hears that the other one is alive.
    loop {
        match other.next().await {
            Some(to::Message::Heartbeat(beat)) if beat.lease_token == 2 => break,
            Some(to::Message::Heartbeat(_) | to::Message::Credit(_)) => {}
            unexpected => panic!("not a heartbeat: {unexpected:?}"),
        }
    }
    holding.gate.add_permits(1);
    let two = other.result().await;
    assert_eq!(two.lease_token, 2);
    assert_eq!(running.streams(), 1);
    other.ack(&two, ResultStatus::Accepted);
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_left_is_not_called_any_more_until_it_is_named_again() {
    let tasks = Tasks::new();
    let ([(first, stream), (second, other)], _holding, running) = with_two_replicas(&tasks).await;
    let (one, two) = (first.url(), second.url());
    let peers = |addresses: &[&String]| {
        let addresses = addresses.iter().map(|url| (*url).clone()).collect();
        from::Message::Peers(Peers { addresses })
    };
    let echo = |token| command(token, "saga", "echo", Direction::Action, &[("word", "one")]);
    // Both have said what they know; then the second one is not named any more.
    other.run(echo(1)).await;
    stream.send(peers(&[&one]));
    stream.run(echo(2)).await;
    // As long as it has a stream it is served.
    other.command(echo(3));
    assert_eq!(other.result().await.lease_token, 3);
    drop(other);
    let address = second.stop().await;
    let left = stream.result().await;
    assert_eq!(left.lease_token, 3);
    stream.ack(&left, ResultStatus::Accepted);
    let left = async {
        while running.coordinators().len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), left)
        .await
        .expect("it gives the second one up");
    let mut second = ScriptedCoordinator::start_at(address).await;
    stream.send(peers(&[&one, &two]));
    let other = second.welcome().await;
    assert_eq!(running.coordinators().len(), 2);
    other.run(echo(4)).await;
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}
