//! Commands, what becomes of them, and how many there may be.

use super::*;

#[tokio::test]
async fn it_says_who_it_is_and_runs_commands() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let running = holding(&coordinator.url())
        .builder
        .concurrency(7)
        .run(&tasks)
        .unwrap();
    let stream = coordinator.welcome().await;
    assert_eq!(stream.hello.participant, "holding");
    assert_eq!(stream.hello.instance, "instance-1");
    assert_eq!(
        stream.hello.actions,
        ["echo", "hold", "never", "panic", "undo"]
    );
    assert_eq!(stream.hello.credits, 7);
    assert!(stream.hello.attempts_in_progress.is_empty());
    running.connected().await;
    let outcome = stream
        .run(command(
            1,
            "saga",
            "echo",
            Direction::Action,
            &[("word", "hello")],
        ))
        .await;
    let result::Outcome::Success(success) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(success.output, Outcome::text("hello").output().cloned());
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn what_it_cannot_do_is_a_transient_failure_and_what_breaks_an_unknown_outcome() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    holding(&coordinator.url()).builder.run(&tasks).unwrap();
    let stream = coordinator.welcome().await;
    let reason = |outcome: result::Outcome| match outcome {
        result::Outcome::Transient(failure) => format!("transient {}", failure.reason),
        result::Outcome::Unknown(failure) => format!("unknown {}", failure.reason),
        other => format!("{other:?}"),
    };
    let unknown_action = command(1, "saga", "what", Direction::Action, &[]);
    assert_eq!(
        reason(stream.run(unknown_action).await),
        "transient ACTION_NOT_REGISTERED"
    );
    let wrong_direction = command(2, "saga", "echo", Direction::Compensation, &[]);
    assert_eq!(
        reason(stream.run(wrong_direction).await),
        "transient ACTION_NOT_REGISTERED"
    );
    let no_direction = command(3, "saga", "echo", Direction::Unspecified, &[]);
    assert_eq!(
        reason(stream.run(no_direction).await),
        "transient ACTION_NOT_REGISTERED"
    );
    let panics = command(4, "saga", "panic", Direction::Action, &[]);
    assert_eq!(reason(stream.run(panics).await), "unknown HANDLER_PANICKED");
    let mut slow = command(5, "saga", "never", Direction::Action, &[]);
    slow.timeout = Some(prost_types::Duration {
        seconds: 0,
        nanos: 20_000_000,
    });
    assert_eq!(reason(stream.run(slow).await), "unknown HANDLER_TIMED_OUT");
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn credits_come_back_in_batches_and_are_never_exceeded() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let Holding {
        gate,
        mut runs,
        builder,
    } = holding(&coordinator.url());
    builder.concurrency(8).run(&tasks).unwrap();
    let stream = coordinator.welcome().await;
    for token in 1..=8 {
        stream.command(hold(token));
    }
    for _ in 1..=8 {
        runs.recv().await.unwrap();
    }
    // A ninth has no credit: it is declined, not run.
    stream.command(hold(9));
    let declined = stream.result().await;
    assert_eq!(declined.lease_token, 9);
    assert!(
        matches!(&declined.outcome, Some(result::Outcome::Transient(failure)) if failure.reason == "NO_CREDIT")
    );
    stream.ack(&declined, ResultStatus::Accepted);
    // The coordinator has none left, so even one that ended comes back at once.
    gate.add_permits(1);
    let mut results = Vec::new();
    assert_eq!(credit(&stream, &mut results).await, 1);
    // While it has some, one that ended is not worth a message; a quarter is.
    gate.add_permits(1);
    results.push(stream.result().await.lease_token);
    gate.add_permits(1);
    assert_eq!(credit(&stream, &mut results).await, 2);
    // All of them come back in the end.
    gate.add_permits(5);
    let mut returned = 0;
    while returned < 5 {
        returned += credit(&stream, &mut results).await;
    }
    assert_eq!(returned, 5);
    let unique: BTreeSet<u64> = results.iter().copied().collect();
    assert_eq!(unique, (1..=8).collect());
    tasks
        .shutdown(Duration::from_millis(100))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn the_same_attempt_is_not_run_twice() {
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
    stream.command(hold(1));
    runs.recv().await.unwrap();
    gate.add_permits(1);
    assert_eq!(stream.result().await.lease_token, 1);
    // Not acknowledged yet: the same answer, without a run.
    stream.command(hold(1));
    let again = stream.result().await;
    assert_eq!(again.lease_token, 1);
    stream.ack(&again, ResultStatus::Accepted);
    stream.command(command(2, "saga", "echo", Direction::Action, &[]));
    assert_eq!(stream.result().await.lease_token, 2);
    assert!(runs.try_recv().is_err(), "the attempt ran twice");
    tasks.shutdown(Duration::from_millis(10)).await.unwrap_err();
}

#[tokio::test]
async fn garbage_is_survived() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    holding(&coordinator.url()).builder.run(&tasks).unwrap();
    // No Welcome first.
    coordinator.accept().await.command(hold(1));
    // Refused, or closed before a word.
    coordinator
        .accept()
        .await
        .fail(Status::invalid_argument("no such participant"));
    drop(coordinator.accept().await);
    // A second Welcome.
    let stream = coordinator.welcome().await;
    stream.welcome(short(10));
    // Acknowledgements of nothing, empty messages, a command that is empty, peers that are no addresses.
    let stream = coordinator.accept().await;
    stream.welcome(Welcome {
        heartbeat_interval: Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        }),
        peers: vec!["\u{0}".into(), "x".into()],
        ..Welcome::default()
    });
    stream.send_empty();
    stream.ack(&Default::default(), ResultStatus::Invalid);
    stream.command(Command::default());
    let declined = stream.result().await;
    assert!(matches!(
        &declined.outcome,
        Some(result::Outcome::Transient(_))
    ));
    stream.ack(&declined, ResultStatus::Invalid);
    let mut odd = command(2, "saga", "echo", Direction::Action, &[]);
    odd.timeout = Some(prost_types::Duration {
        seconds: -5,
        nanos: 7,
    });
    odd.traceparent = "not a traceparent\n".into();
    odd.heartbeat_timeout = Some(prost_types::Duration {
        seconds: i64::MAX,
        nanos: -1,
    });
    odd.not_after_time = Some(prost_types::Timestamp {
        seconds: i64::MAX,
        nanos: i32::MIN,
    });
    assert!(matches!(stream.run(odd).await, result::Outcome::Success(_)));
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn nonsense_is_refused_before_anything_runs() {
    let tasks = Tasks::new();
    let env = Env::system();
    let build = |name: &str, url: &str| Participant::builder(name, url, &env);
    let step = |_| async { Outcome::done() };
    let url = "http://127.0.0.1:50051";
    let long = "a".repeat(128);
    let cases = [
        (build("Bad Name", url).action("a", step), "participant name"),
        (build("", url).action("a", step), "participant name"),
        (build("p", "").action("a", step), "no address"),
        (build("p", "not an address").action("a", step), "no address"),
        (build("p", url), "handles 1 to 256"),
        (
            build("p", url).action("a", step).action("a", step),
            "registered twice",
        ),
        (build("p", url).action("ä", step), "must be 1 to 127"),
        (build("p", url).action(long, step), "must be 1 to 127"),
        (
            build("p", url).action("a", step).concurrency(0),
            "concurrency 0",
        ),
        (build("p", url).action("a", step).instance(""), "instance"),
    ];
    for (builder, expected) in cases {
        let error = builder.run(&tasks).unwrap_err().to_string();
        assert!(
            error.contains(expected),
            "`{error}` does not contain `{expected}`"
        );
    }
    assert!(
        build("p", url)
            .action("a", step)
            .compensation("a", step)
            .run(&tasks)
            .is_ok()
    );
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}
