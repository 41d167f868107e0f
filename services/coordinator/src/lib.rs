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
pub mod hub;
pub mod meters;
mod problems;
pub mod projection;
mod recovery;
pub mod registry;
mod retention;
pub mod saga;

use std::sync::Arc;

use anyhow::Context as _;
use chassis::Process;
use ledger::{CommitterOptions, Ledger};
use sagamesh_api::saga::v1::definition_service_server::DefinitionServiceServer;
use sagamesh_api::saga::v1::operator_service_server::OperatorServiceServer;
use sagamesh_api::saga::v1::participant_service_server::ParticipantServiceServer;
use sagamesh_api::saga::v1::saga_service_server::SagaServiceServer;
use tokio::sync::mpsc;
use tonic::service::Routes;

pub use config::{Config, Options};

use decider::Coordinator;
use dispatch::{Dispatch, Release};
use engine::Engine;
use hub::{Hub, HubOptions};
use meters::Meters;
use projection::SagaTable;
use registry::Registry;

/// Names of the services, as health reports them.
const SERVICES: [&str; 4] = [
    "saga.v1.SagaService",
    "saga.v1.DefinitionService",
    "saga.v1.OperatorService",
    "saga.v1.ParticipantService",
];

/// Runs the coordinator until it is told to stop.
///
/// # Errors
/// When the database cannot be opened, with what to do.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let tasks = process.tasks.clone();
    let (engine, ledger) = open(&config, &process).await?;
    let drain_timeout = config.chassis.server.drain_timeout;
    let drained = (tasks.draining(), tasks.token(), engine.dispatch.clone());
    tasks.spawn("drain", async move {
        let (draining, stop, dispatch) = drained;
        draining.cancelled().await;
        let grace = drain_timeout * 3 / 4;
        dispatch.with(|hub, _| hub.drain(chassis::timestamp::from_duration(grace)));
        tokio::select! {
            () = tokio::time::sleep(grace) => {}
            () = stop.cancelled() => {}
        }
        dispatch.with(|hub, _| hub.end_all());
    });
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
    );
    let served = process.serve(routes, &SERVICES).await;
    tasks.token().cancel();
    drop(engine);
    served?;
    ledger.close().await;
    Ok(())
}

/// Opens the log, resumes every open saga and starts the coordinator's tasks. Nothing is served yet.
pub async fn open(
    config: &Config,
    process: &Process,
) -> anyhow::Result<(Engine, Ledger<Coordinator>)> {
    let (env, tasks) = (process.env.clone(), process.tasks.clone());
    let registry = Arc::new(Registry::default());
    let (owed, commands) = mpsc::unbounded_channel();
    let hub = Hub::new(HubOptions {
        breaker_recovery: config.options.breaker_recovery,
    });
    let dispatch = Dispatch::new(hub, env.clone(), owed);
    let observer = Release::new(dispatch.clone(), Arc::clone(&registry), Meters::default());
    let options = CommitterOptions {
        queue: 65_536,
        snapshot_every: 0,
        ..CommitterOptions::default()
    };
    let decider = Coordinator::new(Arc::clone(&registry));
    let store = config.store.clone().named("coordinator").exclusively();
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
    recovery::recover(&ledger, &dispatch, &registry, &config.options, &env).await?;
    let engine = Engine::new(
        ledger.clone(),
        dispatch,
        registry,
        env,
        tasks.clone(),
        config.options.clone(),
    );
    tasks.spawn("owed-commands", engine.clone().run_owed(commands));
    tasks.spawn("timers", engine.clone().run_timers());
    tasks.spawn("retention", retention::run(engine.clone()));
    tasks.spawn("alarms", alarms::run(engine.clone()));
    Ok((engine, ledger))
}
