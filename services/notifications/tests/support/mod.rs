//! Notifications with orders' feed and a coordinator that tests hold in their hands.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by the test files, each of which uses a part of it"
)]

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chassis::{Env, Process, Tasks, channel};
use ledger::{
    CommitterOptions, Decider, Decision, Ledger, SimulatedDisk, StoreConfig, StreamId, View,
};
use notifications::mail::{Mail, MailError, Mailer};
use participant::testing::ScriptedCoordinator;
use sagamesh_api::shop::notifications::v1::notification_service_client::NotificationServiceClient;
use sagamesh_api::shop::notifications::v1::{
    ListNotificationsRequest, Notification, NotificationState,
};
use sagamesh_api::shop::orders::v1::{OrderConfirmed, OrderPlaced, OrderRejected};
use sagamesh_api::shop::v1::Money;
use tokio::sync::watch;

/// How long a test waits for something before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A log of orders' events.
struct Raw;

/// An event as it is stored: type name and bytes.
pub type RawEvent = (&'static str, Vec<u8>);

impl Decider for Raw {
    type State = ();
    type Event = RawEvent;
    type Command = (StreamId, RawEvent);
    type Reply = ();
    type Rejection = Infallible;

    fn streams(&self, command: &Self::Command) -> Vec<StreamId> {
        vec![command.0.clone()]
    }

    fn initial(&self, _: &StreamId) {}

    fn evolve(&self, (): &mut (), _: &RawEvent) {}

    fn decide(
        &self,
        _: &View<'_, Self>,
        command: &Self::Command,
        _: i64,
    ) -> Result<Decision<RawEvent, ()>, Infallible> {
        Ok(Decision::new(()).event(command.0.clone(), command.1.clone()))
    }

    fn encode(&self, event: &RawEvent, buffer: &mut Vec<u8>) -> &'static str {
        buffer.extend_from_slice(&event.1);
        event.0
    }

    fn decode(&self, _: &str, data: &[u8]) -> Result<RawEvent, ledger::Error> {
        Ok(("", data.to_vec()))
    }
}

/// The orders' service as far as notifications sees it: its feed.
pub struct FakeOrders {
    ledger: Ledger<Raw>,
    tasks: Tasks,
    pub url: String,
    served: tokio::task::JoinHandle<()>,
}

impl FakeOrders {
    pub async fn start() -> Self {
        Self::start_at(0).await
    }

    /// Another log, at the port of one that was stopped.
    pub async fn start_at(port: u16) -> Self {
        let mut config = chassis::ChassisConfig::default();
        config.server.listen = ([127, 0, 0, 1], port).into();
        config.server.admin_listen = ([127, 0, 0, 1], 0).into();
        let process = Process::for_test_with("orders", config);
        let (env, tasks) = (process.env.clone(), process.tasks.clone());
        let disk = StoreConfig::simulated(&SimulatedDisk::new());
        let ledger = Ledger::open(
            disk,
            Raw,
            (),
            Vec::new(),
            &env,
            &tasks,
            CommitterOptions::default(),
        )
        .await
        .expect("opened");
        let url = format!("http://{}", process.grpc_addr());
        let routes = tonic::service::Routes::new(ledger.feed().into_server());
        let served = tokio::spawn(async move { process.serve(routes, &[]).await.expect("served") });
        Self {
            ledger,
            tasks,
            url,
            served,
        }
    }

    pub async fn stop(self) -> u16 {
        self.tasks.begin_drain();
        self.served.await.expect("served");
        let _ = self.tasks.shutdown(PATIENCE).await;
        self.url
            .rsplit_once(':')
            .expect("a port")
            .1
            .parse()
            .expect("a port")
    }

    async fn happened(&self, order_id: &str, name: &'static str, message: &impl prost::Message) {
        let command = (
            StreamId::of("order", order_id),
            (name, message.encode_to_vec()),
        );
        self.ledger.execute(command).await.expect("appended");
    }

    pub async fn placed(&self, order_id: &str, contact_email: &str) {
        let placed = OrderPlaced {
            order_id: order_id.to_owned(),
            customer_id: "alice".to_owned(),
            lines: Vec::new(),
            total: Some(Money {
                minor_units: 1_999,
                currency: "EUR".to_owned(),
            }),
            payment_method: "pm_ok".to_owned(),
            contact_email: contact_email.to_owned(),
            traceparent: String::new(),
        };
        self.happened(order_id, "shop.orders.v1.OrderPlaced", &placed)
            .await;
    }

    pub async fn confirmed(&self, order_id: &str) {
        let confirmed = OrderConfirmed {
            saga_id: order_id.to_owned(),
        };
        self.happened(order_id, "shop.orders.v1.OrderConfirmed", &confirmed)
            .await;
    }

    pub async fn rejected(&self, order_id: &str, message: &str) {
        let rejected = OrderRejected {
            saga_id: order_id.to_owned(),
            reason: "CARD_DECLINED".to_owned(),
            message: message.to_owned(),
            traceparent: String::new(),
        };
        self.happened(order_id, "shop.orders.v1.OrderRejected", &rejected)
            .await;
    }

    /// An event that nobody can read.
    pub async fn garbage(&self, order_id: &str) {
        self.ledger
            .execute((
                StreamId::of("order", order_id),
                ("shop.orders.v1.OrderPlaced", vec![0xff]),
            ))
            .await
            .expect("appended");
    }
}

/// Keeps what it is given, or fails as told.
#[derive(Clone, Default)]
pub struct FakeMailer {
    pub sent: Arc<Mutex<Vec<(String, String)>>>,
    pub fails: Arc<Mutex<Option<MailError>>>,
    changed: Arc<watch::Sender<u64>>,
}

impl FakeMailer {
    /// Waits until so many mails were taken; their ids.
    pub async fn until(&self, count: usize) -> Vec<String> {
        let mut changed = self.changed.subscribe();
        let seen = changed.wait_for(|_| self.sent.lock().unwrap().len() >= count);
        tokio::time::timeout(PATIENCE, seen)
            .await
            .expect("mails in time")
            .expect("the mailer lives");
        self.sent
            .lock()
            .unwrap()
            .iter()
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Waits until it was asked so often, whatever it answered.
    pub async fn asked(&self, count: u64) {
        let mut changed = self.changed.subscribe();
        tokio::time::timeout(PATIENCE, changed.wait_for(|asked| *asked >= count))
            .await
            .expect("asked in time")
            .expect("lives");
    }
}

impl Mailer for FakeMailer {
    fn send<'a>(&'a self, mail: &'a Mail) -> ledger::BoxFuture<'a, Result<(), MailError>> {
        Box::pin(async move {
            let fails = self.fails.lock().unwrap().clone();
            if fails.is_none() {
                let text = String::from_utf8(mail.message.formatted()).expect("text");
                self.sent.lock().unwrap().push((mail.id.clone(), text));
            }
            self.changed.send_modify(|asked| *asked += 1);
            fails.map_or(Ok(()), Err)
        })
    }

    fn kind(&self) -> &'static str {
        "fake"
    }
}

/// A running service.
pub struct Running {
    pub client: NotificationServiceClient<chassis::PeerChannel>,
    tasks: Tasks,
    served: tokio::task::JoinHandle<()>,
}

impl Running {
    pub async fn start(
        store: StoreConfig,
        folder: &Path,
        orders: &str,
        coordinator: &str,
        mailer: Option<FakeMailer>,
    ) -> Self {
        Self::with_smtp(store, folder, orders, coordinator, mailer, None).await
    }

    pub async fn with_smtp(
        store: StoreConfig,
        folder: &Path,
        orders: &str,
        coordinator: &str,
        mailer: Option<FakeMailer>,
        smtp_url: Option<&str>,
    ) -> Self {
        let process = Process::for_test("notifications");
        let config = notifications::Config {
            chassis: process.config.clone(),
            store: StoreConfig {
                data_dir: folder.to_owned(),
                ..store
            },
            coordinator: coordinator.to_owned(),
            coordinator_replicas: None,
            orders: orders.to_owned(),
            smtp_url: smtp_url.map(|url| url.parse().expect("an SMTP address")),
            mail_from: "The shop <shop@example.com>".parse().expect("an address"),
        };
        let tasks = process.tasks.clone();
        let client = NotificationServiceClient::new(channel(
            &Env::system(),
            &process.grpc_addr().to_string(),
        ));
        let served = tokio::spawn(async move {
            let served = match mailer {
                Some(mailer) => notifications::run_with(config, process, Arc::new(mailer)).await,
                None => notifications::run(config, process).await,
            };
            assert!(served.is_ok(), "notifications ended: {served:?}");
        });
        Self {
            client,
            tasks,
            served,
        }
    }

    pub async fn stop(self) {
        drop(self.client);
        self.tasks.begin_drain();
        self.served.await.expect("served");
    }

    /// Power is lost: nothing is finished.
    pub async fn crash(self, disk: &SimulatedDisk) {
        disk.crash();
        self.served.abort();
        let _ = self.served.await;
        let _ = self.tasks.shutdown(Duration::from_secs(5)).await;
    }

    pub async fn list(&self, request: ListNotificationsRequest) -> Vec<Notification> {
        self.client
            .clone()
            .list_notifications(request)
            .await
            .expect("listed")
            .into_inner()
            .notifications
    }

    /// Waits until the notification is in this state. The read side follows by itself; there is nothing to subscribe to.
    pub async fn until(&self, id: &str, state: NotificationState) -> Notification {
        let seen = async {
            loop {
                let all = self
                    .list(ListNotificationsRequest {
                        page_size: 500,
                        ..ListNotificationsRequest::default()
                    })
                    .await;
                if let Some(found) = all
                    .into_iter()
                    .find(|found| found.notification_id == id && found.state() == state)
                {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, seen)
            .await
            .unwrap_or_else(|_| panic!("{id} never became {state:?}"))
    }
}

/// A coordinator that nobody speaks for.
pub async fn quiet_coordinator() -> ScriptedCoordinator {
    ScriptedCoordinator::start().await
}

pub fn order_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
