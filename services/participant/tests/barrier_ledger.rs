//! The barrier in the ledger's inbox: points that are given and taken back.

use std::time::Duration;

use chassis::{Env, Tasks};
use ledger::{
    CommitterOptions, Decider, Decision, Ledger, SimulatedDisk, StoreConfig, StreamId, View,
};
use participant::barrier::{DecodeError, Key};
use participant::ledger_barrier::{self, Entry, outcome_of};
use participant::{Direction, Outcome};

/// One stream for each customer; its state is the balance.
struct Points;

struct Command {
    key: Key,
    points: i64,
    says: Outcome,
}

impl Decider for Points {
    type State = i64;
    type Event = i64;
    type Command = Command;
    type Reply = Outcome;
    type Rejection = String;

    fn streams(&self, _command: &Command) -> Vec<StreamId> {
        vec![balance()]
    }

    fn inbox_keys(&self, command: &Command) -> Vec<String> {
        ledger_barrier::keys(&command.key)
    }

    fn initial(&self, _stream: &StreamId) -> i64 {
        0
    }

    fn evolve(&self, state: &mut i64, event: &i64) {
        *state += event;
    }

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Command,
        now_millis: i64,
    ) -> Result<Decision<i64, Outcome>, String> {
        let entry = ledger_barrier::check(view, &command.key, now_millis)
            .map_err(|error: DecodeError| error.to_string())?;
        Ok(match entry {
            Entry::Answer(outcome, rows) => ledger_barrier::answer(outcome, rows),
            Entry::Proceed => {
                let rows = ledger_barrier::record(&command.key, &command.says);
                let decision = ledger_barrier::answer(command.says.clone(), rows);
                match (&command.says, command.key.direction) {
                    (Outcome::Success(_), Direction::Compensation) => {
                        decision.event(balance(), -command.points)
                    }
                    (Outcome::Success(_), _) => decision.event(balance(), command.points),
                    _ => decision,
                }
            }
        })
    }

    fn encode(&self, event: &i64, buffer: &mut Vec<u8>) -> &'static str {
        buffer.extend(event.to_le_bytes());
        "test.v1.Changed"
    }

    fn decode(&self, type_name: &str, data: &[u8]) -> Result<i64, ledger::Error> {
        let bytes = data
            .try_into()
            .map_err(|error| ledger::Error::decode(type_name, error))?;
        Ok(i64::from_le_bytes(bytes))
    }
}

fn balance() -> StreamId {
    StreamId::of("points", "customer")
}

fn command(saga: u32, direction: Direction, says: Outcome) -> Command {
    let key = Key {
        saga_id: format!("saga-{saga}"),
        step: "step".into(),
        direction,
        not_after: None,
    };
    Command {
        key,
        points: 10,
        says,
    }
}

#[tokio::test]
async fn the_three_anomalies_do_not_happen_at_any_concurrency() {
    let tasks = Tasks::new();
    let disk = SimulatedDisk::new();
    let config = StoreConfig::simulated(&disk);
    let options = CommitterOptions::default();
    let ledger = Ledger::open(
        config,
        Points,
        (),
        Vec::new(),
        &Env::system(),
        &tasks,
        options,
    )
    .await
    .unwrap();

    // Every saga gets duplicates of both directions at the same time, some of which fail for the moment.
    let mut all = tokio::task::JoinSet::new();
    for number in 0..400 {
        let (saga, ledger) = (number % 20, ledger.clone());
        let direction = if number % 3 == 0 {
            Direction::Compensation
        } else {
            Direction::Action
        };
        let says = if number % 7 == 0 {
            Outcome::transient("LATER", "")
        } else {
            Outcome::text(number.to_string())
        };
        all.spawn(async move {
            outcome_of(ledger.execute(command(saga, direction, says)).await).unwrap()
        });
    }
    all.join_all().await;
    for saga in 0..20 {
        let undone = outcome_of(
            ledger
                .execute(command(saga, Direction::Compensation, Outcome::done()))
                .await,
        )
        .unwrap();
        assert!(matches!(undone, Outcome::Success(_)));
        let late = outcome_of(
            ledger
                .execute(command(saga, Direction::Action, Outcome::done()))
                .await,
        )
        .unwrap();
        assert_eq!(
            late.failure().map(|failure| failure.reason.as_str()),
            Some("COMPENSATED_BEFORE")
        );
    }
    let (state, changes) = ledger.load(&balance()).await.unwrap();
    assert_eq!(state, 0, "what was done is undone");
    assert!(
        changes <= 40,
        "each saga gave at most once and took at most once, there were {changes} changes"
    );
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_replay_survives_a_restart_and_a_closed_ledger_is_an_unknown_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let open = async |tasks: &Tasks| {
        let config = StoreConfig::sqlite(folder.path(), "points");
        let options = CommitterOptions::default();
        Ledger::open(
            config,
            Points,
            (),
            Vec::new(),
            &Env::system(),
            tasks,
            options,
        )
        .await
        .unwrap()
    };
    let tasks = Tasks::new();
    let ledger = open(&tasks).await;
    let first = outcome_of(
        ledger
            .execute(command(1, Direction::Action, Outcome::text("first")))
            .await,
    )
    .unwrap();
    let no = outcome_of(
        ledger
            .execute(command(2, Direction::Action, Outcome::rejected("NO", "")))
            .await,
    )
    .unwrap();
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    let closed = outcome_of(
        ledger
            .execute(command(3, Direction::Action, Outcome::done()))
            .await,
    )
    .unwrap();
    assert!(matches!(closed, Outcome::Unknown(_)), "{closed:?}");
    drop(ledger);

    let tasks = Tasks::new();
    let ledger = open(&tasks).await;
    assert_eq!(
        outcome_of(
            ledger
                .execute(command(1, Direction::Action, Outcome::done()))
                .await
        )
        .unwrap(),
        first
    );
    assert_eq!(
        outcome_of(
            ledger
                .execute(command(2, Direction::Action, Outcome::done()))
                .await
        )
        .unwrap(),
        no
    );
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}
