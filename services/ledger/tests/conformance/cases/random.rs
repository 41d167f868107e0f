//! Random commands on a disk that fails at random: what was answered is in the log, what was refused is not.

use futures_util::future::join_all;
use ledger::{CommitterOptions, ExecuteError, SimulatedDisk};
use proptest::prelude::*;

use crate::accounts::{Command, account};
use crate::bench::Bench;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Step {
    /// Commands that run at the same time.
    Run(Vec<(usize, usize, i64)>),
    FailBefore,
    FailAfter,
    Full(bool),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec((0..4usize, 0..4usize, -20..40i64), 1..12).prop_map(Step::Run),
        1 => Just(Step::FailBefore),
        1 => Just(Step::FailAfter),
        1 => any::<bool>().prop_map(Step::Full),
        1 => Just(Step::Crash),
    ]
}

fn command((from, to, amount): (usize, usize, i64)) -> Command {
    match from == to {
        true => Command::AddTo(account(NAMES[from]), amount),
        false => Command::Move(NAMES[from], NAMES[to], amount.abs()),
    }
}

async fn play(steps: Vec<Step>) {
    let disk = SimulatedDisk::new();
    let bench = Bench::Simulated(disk.clone());
    let options = || CommitterOptions {
        cache: 2,
        max_batch: 5,
        snapshot_every: 3,
        ..CommitterOptions::default()
    };
    let mut open = bench.open_with(options(), 1).await;
    let (mut events, mut sum) = (0, 0);
    for step in steps {
        match step {
            Step::Run(commands) => {
                let calls = commands
                    .iter()
                    .map(|one| open.ledger.execute(command(*one)));
                for (result, (from, to, amount)) in join_all(calls).await.into_iter().zip(commands)
                {
                    match result {
                        Ok(_) if from == to => {
                            events += 1;
                            sum += amount;
                        }
                        Ok(_) => events += 2,
                        Err(ExecuteError::Rejected(_) | ExecuteError::Storage(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Step::FailBefore => disk.fail_before_commit(),
            Step::FailAfter => disk.fail_after_commit(),
            Step::Full(full) => disk.set_full(full),
            Step::Crash => {
                disk.crash();
                open.close().await;
                open = bench.open_with(options(), 1).await;
            }
        }
        assert_eq!(
            open.ledger.head(),
            events,
            "exactly what was answered is on record"
        );
    }
    let log = open.ledger.read_log(0, 10_000).await.expect("readable");
    let amounts = log
        .iter()
        .map(|event| i64::from_be_bytes(event.data[..].try_into().expect("an amount")));
    assert_eq!(amounts.sum::<i64>(), sum);
    let mut balances = 0;
    for name in NAMES {
        let balance = open
            .ledger
            .load(&account(name))
            .await
            .expect("loads")
            .0
            .balance;
        assert!(balance >= 0);
        assert_eq!(
            open.balance(&format!("account/{name}"), open.ledger.head())
                .await
                .unwrap_or(0),
            balance
        );
        balances += balance;
    }
    assert_eq!(balances, sum);
    open.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_was_answered_is_on_record_and_nothing_else(steps in prop::collection::vec(step(), 1..25)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(play(steps));
    }
}
