//! The participant under test.

use std::sync::Arc;
use std::time::Duration;

use chassis::{Env, Tasks};
use participant::{Direction, Outcome, Participant, StepCommand};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use crate::database::Database;

/// Where handlers wait until the script releases them.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) permits: Arc<Semaphore>,
    /// How many wait.
    pub(crate) held: watch::Sender<u64>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(0)),
            held: watch::Sender::new(0),
        }
    }

    async fn wait(&self) {
        self.held.send_modify(|held| *held += 1);
        let _leaving = Leaving(self.held.clone());
        self.permits.acquire().await.unwrap().forget();
    }
}

/// A handler that no longer waits, released or dropped.
struct Leaving(watch::Sender<u64>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.send_modify(|held| *held -= 1);
    }
}

/// Starts a process: it runs until its tasks drain.
pub(crate) fn start<D: Database>(
    coordinator: &str,
    case: &Value,
    database: &D,
    gate: &Gate,
) -> Tasks {
    let tasks = Tasks::new();
    let work = {
        let (database, gate) = (database.clone(), gate.clone());
        move |command: StepCommand| {
            let (database, gate) = (database.clone(), gate.clone());
            async move { handle(&database, &gate, command).await }
        }
    };
    let concurrency = case["concurrency"].as_u64().unwrap_or(4);
    let grace = case["drainGraceMillis"].as_u64().unwrap_or(5_000);
    Participant::builder("conformance", coordinator, &Env::system())
        .concurrency(u32::try_from(concurrency).unwrap())
        .drain_grace(Duration::from_millis(grace))
        .action("work", work.clone())
        .compensation("undo", work)
        .run(&tasks)
        .unwrap();
    tasks
}

/// The handler of `work` and `undo`.
async fn handle<D: Database>(database: &D, gate: &Gate, command: StepCommand) -> Outcome {
    let outcome = command.text("outcome").unwrap_or_default().to_owned();
    let (key, note) = (command.key(), outcome != "rejected");
    debug_assert_ne!(key.direction, Direction::Unspecified);
    let gate = gate.clone();
    let end = async move {
        if let Some(progress) = command.text("progress") {
            command.heartbeat(progress);
        }
        if command.text("hold").is_some() {
            gate.wait().await;
        }
        let reason = command.text("reason").unwrap_or_default();
        match outcome.as_str() {
            "rejected" => Outcome::rejected(reason, "as the script says"),
            "transient" => Outcome::transient(reason, "as the script says"),
            "unknown" => Outcome::unknown(reason, "as the script says"),
            "crash" => panic!("as the script says"),
            _ => command
                .text("output")
                .map_or_else(Outcome::done, Outcome::text),
        }
    };
    database.guarded(&key, note, end).await
}
