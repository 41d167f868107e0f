//! The saga coordinator: definitions as data, durable execution, compensation in reverse order.
//!
//! ```text
//!   SagaService, OperatorService          ParticipantService (one stream per instance)
//!            |                               ^ commands, acks            | results
//!            v                               |                           v
//!        commands ---> ledger (decide, group commit) ---> observer ---> hub: queues, credits, timers
//!                        ^                                                |
//!                        +------------- timers, silences -----------------+
//! ```
//! [`saga`] decides and is pure; [`decider`] puts it on the ledger; [`hub`] knows what is owed to whom; [`dispatch`] turns durable
//! events into work; `api` serves. A saga's events are the truth, everything in memory can be made again from them.

mod alarms;
pub mod api;
mod config;
pub mod decider;
pub mod dispatch;
pub mod engine;
mod follow;
mod forward;
pub mod hub;
mod keeper;
pub mod meters;
pub mod ownership;
mod problems;
pub mod projection;
mod recovery;
pub mod registry;
mod report;
mod retention;
pub mod saga;
mod span;
#[cfg(feature = "testing")]
pub mod testing;

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context as _;
use chassis::Process;
use ledger::{CommitterOptions, Ledger, Member};
use sagamesh_api::saga::v1::definition_service_server::DefinitionServiceServer;
use sagamesh_api::saga::v1::operator_service_server::OperatorServiceServer;
use sagamesh_api::saga::v1::participant_service_server::ParticipantServiceServer;
use sagamesh_api::saga::v1::peer_service_server::PeerServiceServer;
use sagamesh_api::saga::v1::saga_service_server::SagaServiceServer;
use tokio::sync::mpsc;
use tonic::service::Routes;

pub use config::{Config, Options};

use decider::Coordinator;
use dispatch::{Dispatch, Release};
use engine::Engine;
use hub::{Hub, HubOptions};
use keeper::Keeper;
use meters::Meters;
use ownership::Ownership;
use projection::SagaTable;
use registry::Registry;

/// Names of the services, as health reports them.
const SERVICES: [&str; 5] = [
    "saga.v1.SagaService",
    "saga.v1.DefinitionService",
    "saga.v1.OperatorService",
    "saga.v1.ParticipantService",
    "saga.v1.PeerService",
];

/// Runs the coordinator until it is told to stop.
///
/// # Errors
/// When the database cannot be opened, with what to do.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let opened = open(&config, &process).await?;
    let engine = opened.engine.clone();
    let limit = config
        .options
        .max_payload_bytes
        .saturating_mul(2)
        .max(config.chassis.server.max_request_bytes);
    let routes = Routes::new(
        SagaServiceServer::new(api::Sagas::new(engine.clone())).max_decoding_message_size(limit),
    )
    .add_service(DefinitionServiceServer::new(api::Definitions::new(
        engine.clone(),
    )))
    .add_service(
        OperatorServiceServer::new(api::Operators::new(engine.clone()))
            .max_decoding_message_size(limit),
    )
    .add_service(
        ParticipantServiceServer::new(api::Participants::new(engine.clone()))
            .max_decoding_message_size(limit),
    )
    .add_service(
        PeerServiceServer::new(api::Replicas::new(engine.clone())).max_decoding_message_size(limit),
    );
    drop(engine);
    serve(&config, process, opened, routes).await
}

/// Serves an open coordinator until it is told to stop.
///
/// # Errors
/// If reflection cannot be built.
pub async fn serve(
    config: &Config,
    process: Process,
    opened: Opened,
    routes: Routes,
) -> anyhow::Result<()> {
    let Opened {
        engine,
        ledger,
        keeper,
    } = opened;
    let tasks = process.tasks.clone();
    let drain_timeout = config.chassis.server.drain_timeout;
    let drained = (tasks.draining(), tasks.token(), engine.dispatch.clone());
    let leaving = keeper.clone();
    tasks.spawn_essential("drain", async move {
        let (draining, stop, dispatch) = drained;
        draining.cancelled().await;
        let grace = drain_timeout * 3 / 4;
        // First its sagas go on elsewhere, then its participants are told to.
        if let Some(keeper) = leaving
            && tokio::time::timeout(grace / 2, keeper.drain())
                .await
                .is_err()
        {
            tracing::warn!(
                "handing over took too long: what is left waits for its lease to run out"
            );
        }
        dispatch.with(|hub, _| hub.drain(chassis::timestamp::from_duration(grace)));
        tokio::select! {
            biased;
            () = tokio::time::sleep(grace) => {}
            () = stop.cancelled() => {}
        }
        dispatch.with(|hub, _| hub.end_all());
    });
    let served = process.serve(routes, &SERVICES).await;
    if let Some(keeper) = keeper {
        keeper.leave().await;
    }
    tasks.token().cancel();
    drop(engine);
    served?;
    ledger.close().await;
    Ok(())
}

/// An open coordinator.
pub struct Opened {
    /// What the services share.
    pub engine: Engine,
    /// The log, to be closed at the end.
    pub ledger: Ledger<Coordinator>,
    /// Where others may own shards of the same log.
    keeper: Option<Keeper>,
}

/// Opens the log, resumes every open saga and starts the coordinator's tasks. Nothing is served yet.
pub async fn open(config: &Config, process: &Process) -> anyhow::Result<Opened> {
    open_deciding(config, process, saga::decide).await
}

/// The same with another function that decides, for tests that check that a wrong one is noticed.
pub async fn open_deciding(
    config: &Config,
    process: &Process,
    decide: decider::Decide,
) -> anyhow::Result<Opened> {
    let (env, tasks) = (process.env.clone(), process.tasks.clone());
    let registry = Arc::new(Registry::default());
    let shared = config.store.is_shared();
    let ownership = match shared {
        true => Ownership::shared(&env),
        false => Ownership::alone(&env),
    };
    let (owed, commands) = mpsc::unbounded_channel();
    let hub = Hub::new(HubOptions {
        breaker_recovery: config.options.breaker_recovery,
    });
    let dispatch = Dispatch::new(hub, env.clone(), owed, ownership.clone());
    let observer = Release::new(dispatch.clone(), Arc::clone(&registry), Meters::default());
    let options = CommitterOptions {
        queue: 65_536,
        snapshot_every: 0,
        ..CommitterOptions::default()
    };
    let decider = Coordinator::deciding(Arc::clone(&registry), ownership.clone(), decide);
    let store = config.store.clone().named("coordinator");
    let ledger = Ledger::open(
        store,
        decider,
        observer,
        vec![Box::new(SagaTable::default())],
        &env,
        &tasks,
        options,
    )
    .await
    .context("the coordinator's log cannot be opened")?;
    let engine = Engine::new(
        ledger.clone(),
        dispatch,
        registry,
        ownership,
        env,
        tasks.clone(),
        config.options.clone(),
    );
    let news = ledger.subscribe(ledger.head())?;
    recovery::load_registry(&engine).await?;
    let me = Member {
        name: config.options.replica.clone(),
        address: config.options.replica_address.clone(),
    };
    let keeper = match ledger.shards(me, config.options.lease) {
        Some(shards) => {
            // Its shard comes home at once then, and must find its sagas: the tables may have been made again for this version.
            recovery::table_is_ready(&engine).await?;
            let keeper = Keeper::start(engine.clone(), shards, process.readiness.clone()).await?;
            tasks.spawn_essential("other-replicas", follow::run(engine.clone(), news));
            Some(keeper)
        }
        None => {
            for fence in engine.ownership.held() {
                engine
                    .dispatch
                    .with(|hub, _| hub.hold(fence.shard, HashSet::new()));
                recovery::resume_shard(&engine, fence).await?;
            }
            None
        }
    };
    tasks.spawn_essential("owed-commands", engine.clone().run_owed(commands));
    tasks.spawn_essential("timers", engine.clone().run_timers());
    tasks.spawn_essential("scan", recovery::run_scan(engine.clone()));
    tasks.spawn_essential("retention", retention::run(engine.clone()));
    tasks.spawn_essential("alarms", alarms::run(engine.clone()));
    Ok(Opened {
        engine,
        ledger,
        keeper,
    })
}
