//! The notifications service of the shop: tells customers what became of their orders.
//!
//! # What it does
//!
//! - **Follows the orders' feed** (`ledger.v1.FeedService` of orders): an OrderPlaced records a receipt, an OrderRejected a rejection. How far the
//!   feed was read is stored in the same commit as what was recorded for it, so that nothing is left out and nothing is recorded twice; a log that was
//!   replaced (a restore) is noticed and read from its start.
//! - **The participant `notifications`** of the sagas: `notifications.SendConfirmation` and `notifications.SendRefundNotice`. A step succeeds once
//!   the notification is durably recorded. Handing it over is owed from there on: a mail server that is down never holds up a saga.
//! - **The outbox**: hands over what is owed, through a [`mail::Mailer`]: files in `<data-dir>/outbox/<id>.eml` by default, SMTP when a server is
//!   configured. At least once: a crash between handing over and marking it sends the mail again, with the same Message-ID. What a mail server refuses
//!   for good is tried again for about a day (30 times, an hour apart in the end, counted from the process's start) and has FAILED then.
//! - **`shop.notifications.v1.NotificationService`**: ListNotifications.
//!
//! A notification without a recipient (or with something that is no address) is RECORDED and never sent.
//!
//! # Where to look
//!
//! [`domain`] is pure and holds the rules and the words; [`decider`] puts it on the ledger; `feed` follows orders; `steps` does what sagas ask;
//! `queue` says whose turn it is and `outbox` sends; [`mail`] are the ways to send; [`projection`] is the read side.

pub mod decider;
pub mod domain;
mod feed;
pub mod mail;
mod outbox;
pub mod projection;
mod queries;
mod queue;
mod service;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chassis::{ChassisConfig, Process};
use ledger::{CommitterOptions, Consumer, FeedService, Ledger, StoreConfig};
use lettre::message::Mailbox;
use sagamesh_api::shop::notifications::v1::notification_service_server::NotificationServiceServer;
use tonic::service::Routes;

use decider::Notifications;
use mail::{Files, Mailer, Smtp, SmtpUrl};
use queries::Queries;

/// Full name of the service.
pub const SERVICE: &str = "shop.notifications.v1.NotificationService";

/// How long tasks may take to stop before the database is closed.
const TASKS_TIMEOUT: Duration = Duration::from_secs(3);

/// How to run it.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "notifications",
    version,
    about = "The notifications service of the shop"
)]
pub struct Config {
    /// Addresses, limits, telemetry.
    #[command(flatten)]
    pub chassis: ChassisConfig,
    /// Where the notifications are kept.
    #[command(flatten)]
    pub store: StoreConfig,
    /// Address of the coordinator; of its replicas, with commas between them.
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
    /// Address of orders, whose feed is followed.
    #[arg(
        long,
        env = "SAGAMESH_ORDERS",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL"
    )]
    pub orders: String,
    /// Mail server: smtp://host:25, or smtps://user:password@host. Without one, mails are files in `<data-dir>/outbox`.
    #[arg(
        long,
        env = "SAGAMESH_SMTP_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub smtp_url: Option<SmtpUrl>,
    /// Who the mails are from.
    #[arg(
        long,
        env = "SAGAMESH_MAIL_FROM",
        default_value = "The shop <shop@sagamesh.example>",
        value_name = "ADDRESS"
    )]
    pub mail_from: Mailbox,
}

/// Runs the service until shutdown.
///
/// # Errors
/// If the database or the outbox folder cannot be opened, or an address is invalid.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let mailer: Arc<dyn Mailer> =
        match &config.smtp_url {
            Some(url) => Arc::new(Smtp::new(url).context("cannot use the mail server")?),
            None => {
                let folder = config.store.data_dir.join("outbox");
                Arc::new(Files::new(&folder).with_context(|| {
                    format!("cannot make the outbox folder {}", folder.display())
                })?)
            }
        };
    run_with(config, process, mailer).await
}

/// Runs the service with this mailer.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    process: Process,
    mailer: Arc<dyn Mailer>,
) -> anyhow::Result<()> {
    let (env, tasks) = (process.env.clone(), process.tasks.clone());
    let (observer, notes) = outbox::channel();
    let store = config.store.clone().named("notifications");
    let projections: Vec<Box<dyn ledger::Projection>> =
        vec![Box::new(projection::NotificationsProjection)];
    let options = CommitterOptions::default();
    let ledger = Ledger::open(
        store,
        Notifications,
        observer,
        projections,
        &env,
        &tasks,
        options,
    )
    .await
    .context("cannot open the notifications")?;

    let queries = Queries::new(ledger.reader());
    let outbox = outbox::Outbox {
        ledger: ledger.clone(),
        queries: queries.clone(),
        mailer,
        from: config.mail_from.clone(),
        env: env.clone(),
        slots: outbox::Outbox::slots(),
    };
    tasks.spawn_essential("outbox", outbox::run(outbox, notes, tasks.token()));
    let consumer = Consumer::new(feed::CONSUMER, chassis::channel(&env, &config.orders))
        .stream_prefix("order/");
    tasks.spawn_essential(
        "orders feed",
        consumer.run(feed::Follower::new(ledger.clone()), tasks.draining()),
    );
    let replicas = config.coordinator_replicas.as_ref();
    let replicas = replicas.unwrap_or(&config.coordinator);
    steps::participate(&ledger, replicas, &env, &tasks).context("cannot take part in sagas")?;

    let routes = Routes::new(NotificationServiceServer::new(service::Service { queries }))
        .add_service(ledger.feed().into_server());
    process.serve(routes, &[SERVICE, FeedService::NAME]).await?;
    if let Err(running) = tasks.shutdown(TASKS_TIMEOUT).await {
        tracing::warn!(?running, "these tasks do not stop");
    }
    ledger.close().await;
    Ok(())
}
