//! The life of a stream, against a scripted coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chassis::{Connector, Env, Tasks};
use participant::testing::{ScriptedCoordinator, ScriptedStream, command};
use participant::{Builder, Direction, Outcome, Participant, StepCommand};
use sagamesh_api::saga::v1::{
    Command, Drain, Peers, ResultStatus, Welcome, participate_request as to,
    participate_response as from, result,
};
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;

/// A participant whose handler of `hold` waits for a permit, and tells of every run.
struct Holding {
    gate: Arc<Semaphore>,
    runs: mpsc::UnboundedReceiver<u64>,
    builder: Builder,
}

fn holding(coordinator: &str) -> Holding {
    let gate = Arc::new(Semaphore::new(0));
    let (ran, runs) = mpsc::unbounded_channel();
    let handler_gate = Arc::clone(&gate);
    let builder = Participant::builder("holding", coordinator, &Env::system())
        .instance("instance-1")
        .action("echo", |command: StepCommand| async move {
            Outcome::text(command.text("word").unwrap_or_default())
        })
        .compensation("undo", |_| async { Outcome::done() })
        .action("panic", |_| async {
            panic!("as the test wants it") as Outcome
        })
        .action("never", |_| std::future::pending::<Outcome>())
        .action("hold", move |command: StepCommand| {
            let (gate, ran) = (Arc::clone(&handler_gate), ran.clone());
            async move {
                ran.send(command.lease_token).unwrap();
                gate.acquire().await.unwrap().forget();
                Outcome::done()
            }
        });
    Holding {
        gate,
        runs,
        builder,
    }
}

fn hold(lease_token: u64) -> Command {
    command(lease_token, "saga", "hold", Direction::Action, &[])
}

fn short(interval_millis: i32) -> Welcome {
    Welcome {
        coordinator: "scripted".into(),
        heartbeat_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: interval_millis * 1_000_000,
        }),
        ..Welcome::default()
    }
}

/// Reads messages until one is a credit, and returns it; results on the way are collected.
async fn credit(stream: &ScriptedStream, results: &mut Vec<u64>) -> u32 {
    loop {
        match stream.next().await {
            Some(to::Message::Credit(credit)) => return credit.commands,
            Some(to::Message::Result(result)) => results.push(result.lease_token),
            Some(to::Message::Heartbeat(_)) => {}
            other => panic!("expected a credit, got {other:?}"),
        }
    }
}

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
async fn a_handler_that_beats_in_a_loop_is_heard_by_its_newest_and_holds_up_nothing() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let builder = holding(&coordinator.url()).builder;
    let chatting = builder.action("chat", |command: StepCommand| async move {
        for number in 0_u64.. {
            command.heartbeat(&number.to_string());
            if number % 1_000 == 999 {
                tokio::task::yield_now().await;
            }
        }
        Outcome::done()
    });
    chatting.run(&tasks).unwrap();
    let stream = coordinator.welcome().await;
    stream.command(command(1, "saga", "chat", Direction::Action, &[]));
    let Some(to::Message::Heartbeat(beat)) = stream.next().await else {
        panic!("not a heartbeat")
    };
    // The first look comes after a thousand.
    assert_eq!((beat.lease_token, beat.details.as_str()), (1, "999"));
    for token in 2..20 {
        let word = [("word", "hello")];
        let outcome = stream
            .run(command(token, "saga", "echo", Direction::Action, &word))
            .await;
        assert!(
            matches!(outcome, result::Outcome::Success(_)),
            "{outcome:?}"
        );
    }
    tasks.begin_drain();
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
async fn heartbeats_go_out_for_the_stream_and_for_each_attempt() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    let builder = Participant::builder("beating", coordinator.url(), &Env::system());
    let progress = |command: StepCommand| async move {
        command.heartbeat("half-way");
        std::future::pending::<Outcome>().await
    };
    builder
        .action("work", progress)
        .drain_grace(Duration::ZERO)
        .run(&tasks)
        .unwrap();
    let stream = coordinator.accept().await;
    stream.welcome(short(20));
    let mut work = command(7, "saga", "work", Direction::Action, &[]);
    work.heartbeat_timeout = Some(prost_types::Duration {
        seconds: 0,
        nanos: 60_000_000,
    });
    stream.command(work);
    let mut beats: BTreeMap<u64, u32> = BTreeMap::new();
    while beats.get(&0).copied().unwrap_or(0) < 3 || beats.get(&7).copied().unwrap_or(0) < 3 {
        stream.send(from::Message::Heartbeat(Default::default()));
        let Some(to::Message::Heartbeat(beat)) = stream.next().await else {
            panic!("expected heartbeats")
        };
        assert_eq!(
            beat.details,
            if beat.lease_token == 7 {
                "half-way"
            } else {
                ""
            }
        );
        *beats.entry(beat.lease_token).or_default() += 1;
    }
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_silent_coordinator_is_given_up() {
    let mut coordinator = ScriptedCoordinator::start().await;
    let tasks = Tasks::new();
    holding(&coordinator.url()).builder.run(&tasks).unwrap();
    let stream = coordinator.accept().await;
    stream.welcome(short(10));
    // It says nothing more: after three intervals the participant hangs up and comes again.
    while stream.next().await.is_some() {}
    coordinator.welcome().await;
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
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
