//! Sagas in flight, resumed after kill -9: the second step of each is under way when the coordinator is killed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chassis::{Env, Tasks};
use participant::{Outcome, Participant, StepCommand};
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::args::{Common, Recovery};
use crate::definition::{self, ACTION, COMPENSATION, PARTICIPANTS};
use crate::disk::Place;
use crate::report::millis;
use crate::system::{Coordinator, Keeping};
use crate::{list, system};

/// Clients that start the sagas.
const STARTERS: usize = 64;

/// Sagas that have reached a step.
#[derive(Clone, Default)]
struct Reached {
    sagas: Arc<Mutex<BTreeSet<String>>>,
    count: watch::Sender<usize>,
}

impl Reached {
    fn note(&self, saga: String) {
        let mut sagas = self.sagas.lock().unwrap_or_else(PoisonError::into_inner);
        sagas.insert(saga);
        self.count.send_replace(sagas.len());
    }

    async fn wait_for(&self, sagas: u64) -> anyhow::Result<()> {
        let mut count = self.count.subscribe();
        let reached = count.wait_for(|count| *count as u64 >= sagas);
        tokio::time::timeout(Duration::from_secs(120), reached).await??;
        Ok(())
    }
}

/// Brings all sagas to their second step, kills the coordinator, starts it again, and waits for the third steps.
pub(crate) async fn run(common: &Common, place: &Place, options: &Recovery) -> anyhow::Result<()> {
    let folder = place.folder("recovery")?;
    let coordinator = if options.ended > 0 {
        let (coordinator, participants) = system::whole(common, &folder, &Keeping::Memory).await?;
        list::fill(&coordinator, options.ended).await?;
        drop(participants);
        coordinator
    } else {
        let coordinator = Coordinator::start(common, &folder, "127.0.0.1:0").await?;
        definition::register(coordinator.channel()).await?;
        coordinator
    };
    let tasks = Tasks::new();
    let (second, third) = (Reached::default(), Reached::default());
    let gate = Arc::new(Semaphore::new(0));
    participants(&coordinator, &tasks, options, [&second, &third], &gate)?;
    start(&coordinator, options.sagas).await?;
    second.wait_for(options.sagas).await?;
    println!(
        "{} sagas are in flight; coordinator uses {:.0} MB",
        options.sagas,
        coordinator.process.rss_mb()
    );

    let listen = coordinator.listen().to_owned();
    coordinator.process.kill().await?;
    // The participants finish while there is no coordinator.
    gate.add_permits(usize::try_from(options.sagas)?);
    let started = Instant::now();
    let coordinator = Coordinator::start(common, &folder, &listen).await?;
    let ready = started.elapsed();
    third.wait_for(options.sagas).await?;
    println!(
        "after kill -9: ready in {:.0} ms, every one of {} sagas resumed in {:.0} ms (from the start of the process)",
        millis(ready),
        options.sagas,
        millis(started.elapsed())
    );
    println!("coordinator uses {:.0} MB", coordinator.process.rss_mb());
    tasks
        .shutdown(Duration::from_secs(5))
        .await
        .map_err(|names| anyhow::anyhow!("still running: {names:?}"))
}

fn participants(
    coordinator: &Coordinator,
    tasks: &Tasks,
    options: &Recovery,
    [second, third]: [&Reached; 2],
    gate: &Arc<Semaphore>,
) -> anyhow::Result<()> {
    let env = Env::system();
    let concurrency = u32::try_from(options.sagas)?.min(100_000);
    for name in PARTICIPANTS {
        let builder =
            Participant::builder(name, &coordinator.address, &env).concurrency(concurrency);
        let (second, third, gate) = (second.clone(), third.clone(), Arc::clone(gate));
        let action = move |command: StepCommand| {
            let (second, third, gate) = (second.clone(), third.clone(), Arc::clone(&gate));
            async move {
                match command.step.as_str() {
                    "step-2" => {
                        second.note(command.saga_id);
                        if let Ok(permit) = gate.acquire().await {
                            permit.forget();
                        }
                    }
                    "step-3" => third.note(command.saga_id),
                    _ => {}
                }
                Outcome::done()
            }
        };
        builder
            .action(ACTION, action)
            .compensation(COMPENSATION, |_| async { Outcome::done() })
            .run(tasks)?;
    }
    Ok(())
}

async fn start(coordinator: &Coordinator, sagas: u64) -> anyhow::Result<()> {
    let channel = coordinator.channel();
    let mut starters = JoinSet::new();
    for starter in 0..STARTERS as u64 {
        let mut client = SagaServiceClient::new(channel.clone());
        starters.spawn(async move {
            for _ in (starter..sagas).step_by(STARTERS) {
                client.start_saga(definition::start(false, 0)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(starter) = starters.join_next().await {
        starter??;
    }
    Ok(())
}
