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

mod alive;
mod attempts;
mod coming_and_going;
mod replicas;

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
