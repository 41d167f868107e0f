//! A participant with the real library, whose handlers are as good and as bad as handlers are.

use std::time::Duration;

use anyhow::Result;
use chassis::Tasks;
use ledger::{CommitterOptions, Ledger, StoreConfig};
use participant::ledger_barrier::outcome_of;
use participant::{Outcome, Participant, StepCommand};

use super::effects::{Command, Effects};
use crate::bugs::Bug;
use crate::history::{Told, What};
use crate::moods::Mood;
use crate::world::Life;

/// Actions of random definitions. Compensations are called `undo`.
pub const ACTIONS: &[&str] = &["do", "go"];
/// What the shop asks of notifications.
pub const MAILS: &[&str] = &[
    "notifications.SendConfirmation",
    "notifications.SendRefundNotice",
];

/// Runs it.
pub(super) async fn run(life: Life, actions: &[&str]) -> Result<()> {
    let tasks = Tasks::new();
    life.adopt(&tasks);
    let bug = life.world.setup.bug;
    let effects = Effects {
        barrier: bug != Some(Bug::NoBarrier),
        void: bug != Some(Bug::NoVoid),
    };
    let ledger = Ledger::open(
        StoreConfig::simulated(&life.disk),
        effects,
        (),
        Vec::new(),
        &life.env,
        &tasks,
        CommitterOptions::default(),
    )
    .await?;
    life.world.opened(&life.machine, ledger.clone());
    let hands = Hands {
        life: life.clone(),
        ledger,
    };
    let instance = format!("{}-{}", life.machine, life.incarnation);
    let coordinators = life.world.setup.streams_of(life.world.seed, &life.machine);
    let mut builder = Participant::builder(&life.machine, coordinators, &life.env)
        .instance(instance)
        .concurrency(4);
    for action in actions {
        builder = builder.action(*action, hands.clone().handler());
    }
    builder.compensation("undo", hands.handler()).run(&tasks)?;
    tasks.draining().cancelled().await;
    // What is under way may end; a machine that lost power does not wait for it.
    let grace = tokio::time::sleep(Duration::from_secs(6));
    tasks.token().run_until_cancelled(grace).await;
    tasks.token().cancel();
    Ok(())
}

/// What handlers share.
#[derive(Clone)]
struct Hands {
    life: Life,
    ledger: Ledger<Effects>,
}

impl Hands {
    fn handler(self) -> impl participant::Step {
        move |command: StepCommand| {
            let hands = self.clone();
            async move { hands.handle(command).await }
        }
    }

    async fn handle(&self, command: StepCommand) -> Outcome {
        let told = Told {
            saga: command.saga_id.clone(),
            step: command.step.clone(),
            direction: command.direction,
            token: command.lease_token,
        };
        if !self.life.is_current() {
            return Outcome::unknown("NO_POWER", "the machine is down");
        }
        self.life.note(What::Delivered(told.clone()));
        let mood = Mood::of(&self.life.world, &told);
        let work = Command {
            key: command.key(),
            says: mood.says,
        };
        let world = &self.life.world;
        if let Some(later) = mood.again {
            world.fault(format!("{told} comes again after {later:?}"));
            world.again(&self.life.machine, told.token, work.clone(), later);
        }
        if world.setup.bug == Some(Bug::AnswerBeforeCommit) {
            let (ledger, late) = (self.ledger.clone(), work.clone());
            tokio::spawn(async move {
                pause(mood.before).await;
                drop(ledger.execute(late).await);
            });
            return self.answered(told, work.says);
        }
        pause(mood.before).await;
        let outcome = outcome_of(self.ledger.execute(work).await)
            .unwrap_or_else(|damaged| Outcome::unknown("DAMAGED", damaged));
        if matches!(outcome, Outcome::Transient(_)) {
            self.life.world.failed(told.token);
        }
        pause(mood.after).await;
        let outcome = if mood.forgets {
            Outcome::unknown("FORGOTTEN", "whether it was done is not known")
        } else {
            outcome
        };
        self.answered(told, outcome)
    }

    fn answered(&self, told: Told, outcome: Outcome) -> Outcome {
        self.life.note(What::Answered(told, label(&outcome)));
        outcome
    }
}

fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Success(_) => "success",
        Outcome::Rejected(_) => "rejected",
        Outcome::Transient(_) => "transient",
        Outcome::Unknown(_) => "unknown",
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
