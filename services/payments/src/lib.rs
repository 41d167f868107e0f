//! The payments service of the shop: money of customers, in double-entry books.
//!
//! - **Writes** are the [saga steps](steps) AuthorizePayment, VoidAuthorization, CapturePayment and RefundPayment; there is no
//!   other way to move money. Each payment is one stream, `payment/<order_id>`.
//! - **The world outside** is a [processor] behind a trait, with a circuit breaker and a time limit. The built-in one is a bank
//!   with records of its own; choose what it does with the payment method:
//!
//!   | method | what happens |
//!   |---|---|
//!   | `pm_ok` | fine |
//!   | `pm_declined` | rejected, CARD_DECLINED |
//!   | `pm_insufficient_funds` | rejected, INSUFFICIENT_FUNDS |
//!   | `pm_flaky` | unavailable twice for each operation, then fine |
//!   | `pm_timeout_authorize`, `pm_timeout_capture` | the work is done, and the first call is never answered |
//!   | `pm_slow` | fine after three seconds |
//!   | anything else | rejected, UNKNOWN_PAYMENT_METHOD |
//!
//!   All but `pm_ok` are test cards, which customers can choose as well: five orders with `pm_timeout_authorize` open the circuit breaker for
//!   everybody. `--test-cards false` switches them off: the bank does not know them then.
//!
//! - **Every effect outside has two records**: the intent before the call and the outcome after it, both on the payment's
//!   stream. The call's key is `<payment_id>/<operation>`; who finds an open intent asks by the same key, and an undo settles
//!   it first. The [barrier](decider) row is written with the outcome.
//! - **Books**: each movement is ONE event with all its postings, whose sum is zero ([`domain::journal`]). Accounts are
//!   `customer:<id>`, `authorized:<currency>` and `merchant:<currency>`; GetTrialBalance reads them at one position.
//! - **The feed** of all events is `ledger.v1.FeedService`.

pub mod api;
pub mod decider;
pub mod domain;
pub mod processor;
pub mod projection;
pub mod queries;
pub mod steps;

use std::sync::Arc;
use std::time::Duration;

use chassis::{ChassisConfig, Env, Process, Tasks};
use ledger::{CommitterOptions, FeedService, Ledger, StoreConfig};
use participant::Participant;
use sagamesh_api::shop::payments::v1::payment_service_server::PaymentServiceServer;
use tonic::service::Routes;

use crate::decider::Payments;
use crate::processor::Guarded;
use crate::processor::bank::Bank;
use crate::projection::BooksProjection;
use crate::steps::Steps;

/// Name of the service, and of the participant.
pub const SERVICE: &str = "payments";

/// Configuration of the service.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "payments",
    version,
    about = "The payments service: authorize, capture, void, refund, and the books."
)]
pub struct Config {
    /// What every process has.
    #[command(flatten)]
    pub chassis: ChassisConfig,
    /// Where its log is.
    #[command(flatten)]
    pub store: StoreConfig,
    /// The coordinator whose saga steps it does; several replicas with commas between them.
    #[arg(
        long,
        env = "SAGAMESH_COORDINATOR",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL"
    )]
    pub coordinator: String,
    /// Addresses of the coordinator's replicas, with commas between them: a stream for saga steps goes to each. Unset: the same as the coordinator's.
    #[arg(long, env = "SAGAMESH_COORDINATOR_REPLICAS", value_name = "URLS")]
    pub coordinator_replicas: Option<String>,
    /// How many steps run at a time.
    #[arg(
        long,
        env = "SAGAMESH_STEP_CONCURRENCY",
        default_value_t = 256,
        value_name = "N"
    )]
    pub step_concurrency: u32,
    /// How long a call to the payment processor may take; units ms, s, m, h.
    #[arg(long, env = "SAGAMESH_PROCESSOR_TIMEOUT", default_value = "10s", value_parser = chassis::config::parse_duration, value_name = "TIME")]
    pub processor_timeout: Duration,
    /// How long the processor's circuit breaker stays open before one call probes; units ms, s, m, h.
    #[arg(long, env = "SAGAMESH_BREAKER_RECOVERY", default_value = "60s", value_parser = chassis::config::parse_duration, value_name = "TIME")]
    pub breaker_recovery: Duration,
    /// Whether the built-in bank knows its test cards (all but pm_ok). Some of them play an outage, which all customers then have.
    #[arg(long, env = "SAGAMESH_TEST_CARDS", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub test_cards: bool,
}

/// Runs the service until shutdown.
///
/// # Errors
/// If its log or the bank cannot be opened, or its configuration makes no sense.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let env = process.env.clone();
    let ledger = open(&config.store, &env, &process.tasks).await?;
    let bank = Bank::open(&config.store)
        .await?
        .with_test_cards(config.test_cards);
    let processor = Guarded::new(
        Arc::new(bank),
        env.clone(),
        config.processor_timeout,
        config.breaker_recovery,
    );
    let replicas = config.coordinator_replicas.as_ref();
    let replicas = replicas.unwrap_or(&config.coordinator);
    let participant =
        Participant::builder(SERVICE, replicas, &env).concurrency(config.step_concurrency);
    Steps::new(ledger.clone(), processor)
        .register(participant)
        .run(&process.tasks)?;

    let routes = Routes::new(PaymentServiceServer::new(api::PaymentApi::new(
        ledger.clone(),
    )))
    .add_service(ledger.feed().into_server());
    process
        .serve(
            routes,
            &["shop.payments.v1.PaymentService", FeedService::NAME],
        )
        .await
}

/// Opens the log with its projection.
///
/// # Errors
/// If it is damaged, newer than this program, or in use.
pub async fn open(
    store: &StoreConfig,
    env: &Env,
    tasks: &Tasks,
) -> Result<Ledger<Payments>, ledger::Error> {
    Ledger::open(
        store.clone().named(SERVICE),
        Payments,
        (),
        vec![Box::new(BooksProjection)],
        env,
        tasks,
        CommitterOptions::default(),
    )
    .await
}
