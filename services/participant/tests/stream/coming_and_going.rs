//! Streams that end and begin again.

use super::*;

#[tokio::test]
async fn a_result_is_sent_again_on_every_stream_until_it_is_acknowledged() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let Holding {
        gate,
        mut runs,
        builder,
    } = holding(&coordinator.url());
    builder.concurrency(4).run(&tasks).unwrap();
    let stream = coordinator.welcome().await;
    stream.command(command(1, "saga", "echo", Direction::Action, &[]));
    stream.command(hold(2));
    runs.recv().await.unwrap();
    assert_eq!(stream.result().await.lease_token, 1);
    stream.fail(Status::unavailable("the coordinator crashes"));
    // It names both the one that runs and the one that was not acknowledged, and takes as many fewer commands.
    let stream = coordinator.welcome().await;
    assert_eq!(stream.hello.attempts_in_progress, [2, 1]);
    assert_eq!(stream.hello.credits, 3);
    assert_eq!(stream.result().await.lease_token, 1);
    drop(stream);
    // The attempt that ran all the time ends on the third stream.
    let stream = coordinator.welcome().await;
    let again = stream.result().await;
    assert_eq!(again.lease_token, 1);
    stream.ack(&again, ResultStatus::Superseded);
    gate.add_permits(1);
    let second = stream.result().await;
    assert_eq!(second.lease_token, 2);
    stream.ack(&second, ResultStatus::Accepted);
    stream.fail(Status::unavailable("the coordinator crashes again"));
    let stream = coordinator.welcome().await;
    assert!(stream.hello.attempts_in_progress.is_empty());
    assert_eq!(stream.hello.credits, 4);
    assert!(runs.try_recv().is_err(), "an attempt ran twice");
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn it_finds_a_coordinator_that_comes_back() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let running = holding(&coordinator.url()).builder.run(&tasks).unwrap();
    let stream = coordinator.welcome().await;
    stream.command(command(1, "saga", "echo", Direction::Action, &[]));
    stream.result().await;
    let address = coordinator.stop().await;
    drop(stream);
    let mut coordinator = ScriptedCoordinator::start_at(address).await;
    let stream = coordinator.welcome().await;
    let result = stream.result().await;
    assert_eq!(result.lease_token, 1);
    stream.ack(&result, ResultStatus::Duplicate);
    assert_eq!(running.streams(), 1);
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn on_shutdown_it_drains() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let Holding {
        gate,
        mut runs,
        builder,
    } = holding(&coordinator.url());
    builder.concurrency(4).run(&tasks).unwrap();
    let stream = coordinator.welcome().await;
    stream.command(hold(1));
    runs.recv().await.unwrap();
    tasks.begin_drain();
    let Some(to::Message::Drain(drain)) = stream.next().await else {
        panic!("expected a Drain")
    };
    assert_eq!(
        drain.grace,
        Some(prost_types::Duration {
            seconds: 5,
            nanos: 0
        })
    );
    // A command that crossed the Drain is declined at once.
    stream.command(hold(2));
    let declined = stream.result().await;
    assert!(
        matches!(&declined.outcome, Some(result::Outcome::Transient(failure)) if failure.reason == "DRAINING")
    );
    stream.ack(&declined, ResultStatus::Accepted);
    // What runs may finish, and the stream stays until its result is acknowledged.
    gate.add_permits(1);
    let result = stream.result().await;
    assert_eq!(result.lease_token, 1);
    assert!(tasks.running().contains(&"participant"));
    stream.ack(&result, ResultStatus::Accepted);
    assert_eq!(stream.next().await, None);
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_with_its_grace() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let Holding {
        builder, mut runs, ..
    } = holding(&coordinator.url());
    builder
        .drain_grace(Duration::from_millis(30))
        .run(&tasks)
        .unwrap();
    let stream = coordinator.welcome().await;
    stream.command(hold(1));
    runs.recv().await.unwrap();
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    // Without a coordinator there is nothing to wait for either.
    let tasks = Tasks::new();
    holding("http://127.0.0.1:1").builder.run(&tasks).unwrap();
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_coordinator_that_drains_is_left_and_found_again() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let Holding {
        gate,
        mut runs,
        builder,
    } = holding(&coordinator.url());
    builder.run(&tasks).unwrap();
    let stream = coordinator.welcome().await;
    stream.command(hold(1));
    runs.recv().await.unwrap();
    stream.send(from::Message::Drain(Drain { grace: None }));
    stream
        .run(command(2, "saga", "echo", Direction::Action, &[]))
        .await;
    gate.add_permits(1);
    let result = stream.result().await;
    stream.ack(&result, ResultStatus::Accepted);
    assert_eq!(
        stream.next().await,
        None,
        "no credits are given to a coordinator that stops"
    );
    coordinator.welcome().await;
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn it_backs_off_while_there_is_no_coordinator() {
    let attempts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (tried, mut enough) = mpsc::unbounded_channel();
    let seen = Arc::clone(&attempts);
    let mut env = Env::system();
    env.connector = Connector::new(move |_| {
        seen.lock().unwrap().push(Instant::now());
        let _ = tried.send(());
        async { Err(io::Error::from(io::ErrorKind::ConnectionRefused)) }
    });
    let tasks = Tasks::new();
    let builder = Participant::builder("lonely", "http://coordinator:50051", &env);
    let running = builder
        .action("a", |_| async { Outcome::done() })
        .run(&tasks)
        .unwrap();
    for _ in 0..5 {
        enough.recv().await.unwrap();
    }
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    let attempts = attempts.lock().unwrap();
    for (pair, least) in attempts.windows(2).zip([12, 25, 50, 100]) {
        let waited = pair[1] - pair[0];
        assert!(
            waited >= Duration::from_millis(least),
            "waited only {waited:?}, at least {least} ms were due"
        );
    }
    assert_eq!(running.streams(), 0);
}
