//! The participants of a measurement: in memory, or durable on the ledger with the barrier.

use std::io::Write as _;

use chassis::Process;
use ledger::{CommitterOptions, Decider, Decision, Ledger, StoreConfig, StreamId, View};
use participant::barrier::Key;
use participant::ledger_barrier::{self, Entry, outcome_of};
use participant::{Direction, Outcome, Participant, StepCommand};
use prost::Message as _;
use sagamesh_api::saga::v1::{Value, value::Kind};
use tonic::service::Routes;

use crate::args;
use crate::definition::{ACTION, COMPENSATION, REJECT};

/// Commands that each participant runs at a time.
const CONCURRENCY: u32 = 1_024;

/// Runs participants as a process, and says `connected` on its standard output once they are.
pub(crate) fn run(args: args::Participant) -> anyhow::Result<()> {
    chassis::run("bench-participant", args.chassis.clone(), |process| {
        serve(args, process)
    })
}

async fn serve(args: args::Participant, process: Process) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for name in &args.names {
        let builder =
            Participant::builder(name, &args.address, &process.env).concurrency(CONCURRENCY);
        let builder = match &args.ledger {
            None => builder
                .action(ACTION, |command: StepCommand| async move { says(&command) })
                .compensation(COMPENSATION, |_| async { Outcome::done() }),
            Some(folder) => {
                let config = StoreConfig::sqlite(folder, name);
                let options = CommitterOptions::default();
                let ledger = Ledger::open(
                    config,
                    Work,
                    (),
                    Vec::new(),
                    &process.env,
                    &process.tasks,
                    options,
                )
                .await?;
                let undo = ledger.clone();
                builder
                    .action(ACTION, move |command| done(ledger.clone(), command))
                    .compensation(COMPENSATION, move |command| done(undo.clone(), command))
            }
        };
        running.push(builder.run(&process.tasks)?);
    }
    for participant in &running {
        participant.connected().await;
    }
    println!("connected");
    std::io::stdout().flush()?;
    process.serve(Routes::default(), &[]).await
}

fn says(command: &StepCommand) -> Outcome {
    match command.text(REJECT) {
        Some(_) => Outcome::rejected("AS_ASKED", "the input asks for a rejection"),
        None => Outcome::done(),
    }
}

async fn done(ledger: Ledger<Work>, command: StepCommand) -> Outcome {
    let says = says(&command);
    let order = command.input.get("order").cloned().unwrap_or_default();
    let answer = ledger
        .execute(Command {
            key: command.key(),
            order,
            says,
        })
        .await;
    outcome_of(answer).unwrap_or_else(|damaged: Damaged| Outcome::transient("DAMAGED", damaged.0))
}

/// Work on the ledger: one stream for each saga, with an event when it is done and one when it is undone.
struct Work;

struct Command {
    key: Key,
    order: Value,
    says: Outcome,
}

struct Damaged(String);

impl Decider for Work {
    type State = bool;
    type Event = Value;
    type Command = Command;
    type Reply = Outcome;
    type Rejection = Damaged;

    fn streams(&self, command: &Command) -> Vec<StreamId> {
        vec![stream(command)]
    }

    fn expects_new(&self, command: &Command) -> bool {
        command.key.direction == Direction::Action
    }

    fn inbox_keys(&self, command: &Command) -> Vec<String> {
        ledger_barrier::keys(&command.key)
    }

    fn initial(&self, _stream: &StreamId) -> bool {
        false
    }

    fn evolve(&self, done: &mut bool, event: &Value) {
        *done = matches!(event.kind, Some(Kind::Text(_)));
    }

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Command,
        now_millis: i64,
    ) -> Result<Decision<Value, Outcome>, Damaged> {
        let entry = ledger_barrier::check(view, &command.key, now_millis)
            .map_err(|error| Damaged(error.to_string()))?;
        Ok(match entry {
            Entry::Answer(outcome, rows) => ledger_barrier::answer(outcome, rows),
            Entry::Proceed => {
                let rows = ledger_barrier::record(&command.key, &command.says);
                let decision = ledger_barrier::answer(command.says.clone(), rows);
                match (&command.says, command.key.direction) {
                    (Outcome::Success(_), Direction::Compensation) => decision.event(
                        stream(command),
                        Value {
                            kind: Some(Kind::Binary(Vec::new())),
                        },
                    ),
                    (Outcome::Success(_), _) => {
                        decision.event(stream(command), command.order.clone())
                    }
                    _ => decision,
                }
            }
        })
    }

    fn encode(&self, event: &Value, buffer: &mut Vec<u8>) -> &'static str {
        // A vector grows as needed: encoding into it cannot fail.
        let _ = event.encode(buffer);
        "saga.v1.Value"
    }

    fn decode(&self, type_name: &str, data: &[u8]) -> Result<Value, ledger::Error> {
        Value::decode(data).map_err(|error| ledger::Error::decode(type_name, error))
    }
}

fn stream(command: &Command) -> StreamId {
    StreamId::of("work", &command.key.saga_id)
}
