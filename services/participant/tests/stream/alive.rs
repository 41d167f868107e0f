//! Signs of life, both ways.

use super::*;

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
