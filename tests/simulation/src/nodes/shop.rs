//! The shop's services as they are, on simulated machines. The bank that payments calls is a simulated one: the world outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ledger::{FeedService, StoreConfig};
use participant::Participant;
use payments::domain::{Answer, Operation};
use payments::processor::rules::{self, Method};
use payments::processor::{Guarded, Processor, ProcessorError, Request};
use payments::steps::Steps;
use sagamesh_api::shop::payments::v1::payment_service_server::PaymentServiceServer;
use tonic::service::Routes;

use crate::history::What;
use crate::setup::url;
use crate::world::{COORDINATOR, Life, World};

/// Where a service opens streams for its steps.
fn streams(life: &Life) -> String {
    life.world.setup.streams_of(life.world.seed, &life.machine)
}

/// The orders service.
pub(super) async fn orders(life: Life) -> Result<()> {
    let process = super::process("orders", &life)?;
    let config = orders::Config {
        chassis: process.config.clone(),
        store: StoreConfig::simulated(&life.disk),
        coordinator: url(COORDINATOR),
        coordinator_replicas: Some(streams(&life)),
        inventory: url("inventory"),
        breaker_recovery: Duration::from_secs(5),
    };
    orders::run(config, process).await
}

/// The inventory service. It asks about reservations soon, so that it does so while sagas run.
pub(super) async fn inventory(life: Life) -> Result<()> {
    let process = super::process("inventory", &life)?;
    let config = inventory::Config {
        chassis: process.config.clone(),
        store: StoreConfig::simulated(&life.disk),
        coordinator: url(COORDINATOR),
        coordinator_replicas: Some(streams(&life)),
        step_concurrency: 16,
        reservation_ttl: Duration::from_secs(10),
        sweep_interval: Duration::from_secs(5),
        start_window: Duration::from_secs(120),
        seed_catalogue: true,
    };
    inventory::run(config, process).await
}

/// The payments service; as its own `run`, but for the bank.
pub(super) async fn payments(life: Life, bank: Bank) -> Result<()> {
    let process = super::process("payments", &life)?;
    let store = StoreConfig::simulated(&life.disk);
    let ledger = payments::open(&store, &life.env, &process.tasks).await?;
    let (timeout, recovery) = (Duration::from_secs(4), Duration::from_secs(5));
    let processor = Guarded::new(Arc::new(bank), life.env.clone(), timeout, recovery);
    let instance = format!("payments-{}", life.incarnation);
    let builder =
        Participant::builder(payments::SERVICE, streams(&life), &life.env).instance(instance);
    Steps::new(ledger.clone(), processor)
        .register(builder)
        .run(&process.tasks)?;
    let api = payments::api::PaymentApi::new(ledger.clone());
    let routes =
        Routes::new(PaymentServiceServer::new(api)).add_service(ledger.feed().into_server());
    process
        .serve(
            routes,
            &["shop.payments.v1.PaymentService", FeedService::NAME],
        )
        .await
}

/// A bank that nobody else can crash: it answers a key always the same, late, or not at all. Clones are the same bank.
#[derive(Clone)]
pub struct Bank {
    world: std::sync::Weak<World>,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    approved: Arc<Mutex<BTreeMap<String, Vec<Operation>>>>,
}

impl std::fmt::Debug for Bank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bank")
    }
}

impl Bank {
    /// A bank without customers.
    pub fn new(world: &Arc<World>) -> Self {
        Self {
            world: Arc::downgrade(world),
            answers: Arc::default(),
            approved: Arc::default(),
        }
    }

    fn decide(&self, world: &World, request: &Request) -> Answer {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answers.get(&request.key) {
            return answer.clone();
        }
        let mut approved = self.approved.lock().unwrap_or_else(PoisonError::into_inner);
        let before = approved.entry(request.payment_id.clone()).or_default();
        let method = Method::parse(&request.payment_method);
        let answer = rules::answer(request.operation, method, before, &request.key);
        let yes = matches!(answer, Answer::Approved { .. });
        if yes {
            before.push(request.operation);
        }
        answers.insert(request.key.clone(), answer.clone());
        world.history.add(What::Banked {
            payment: request.payment_id.clone(),
            operation: request.operation,
            approved: yes,
        });
        answer
    }
}

impl Processor for Bank {
    fn perform<'a>(
        &'a self,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Answer, ProcessorError>> {
        async move {
            let gone = || ProcessorError::Unavailable("the world has ended".to_owned());
            let world = self.world.upgrade().ok_or_else(gone)?;
            let trouble = !world.is_calm() && world.setup.faults.participants;
            let dice = &world.hands;
            let usual = if trouble && dice.happens(100) {
                5_000
            } else {
                20
            };
            tokio::time::sleep(dice.millis(1, usual)).await;
            match dice.below(20) {
                0 if trouble => Err(ProcessorError::Unavailable("closed".to_owned())),
                1 if trouble => {
                    self.decide(&world, request);
                    Err(ProcessorError::Lost("no answer".to_owned()))
                }
                _ => Ok(self.decide(&world, request)),
            }
        }
        .boxed()
    }

    fn status<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Answer>, ProcessorError>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answers.get(key).cloned();
        async move { Ok(answer) }.boxed()
    }
}
