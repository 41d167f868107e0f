use std::sync::Mutex;

use chassis::{Process, Tasks};
use ledger::{CommitterOptions, Cursor, SimulatedDisk, StoreConfig};
use sagamesh_api::shop::notifications::v1::NotificationState;
use sagamesh_api::shop::orders::v1::OrderPlaced;
use tokio::sync::watch;

use super::*;
use crate::domain::{NotificationRecord, OrderNews};
use crate::mail::Mail;
use crate::projection::NotificationsProjection;

/// Refuses mails to `refused@example.com` for good, and keeps the ids of the others.
#[derive(Default)]
struct Picky {
    taken: watch::Sender<Vec<String>>,
    refusals: Mutex<u32>,
}

impl Mailer for Picky {
    fn send<'a>(&'a self, mail: &'a Mail) -> ledger::BoxFuture<'a, Result<(), MailError>> {
        Box::pin(async move {
            let text = String::from_utf8_lossy(&mail.message.formatted()).into_owned();
            if text.contains("To: refused@example.com") {
                *self.refusals.lock().unwrap() += 1;
                return Err(MailError::Lasting("refused with code 550".to_owned()));
            }
            self.taken.send_modify(|taken| taken.push(mail.id.clone()));
            Ok(())
        })
    }

    fn kind(&self) -> &'static str {
        "picky"
    }
}

struct Rig {
    ledger: Ledger<Notifications>,
    mailer: Arc<Picky>,
    tasks: Tasks,
    outbox: Option<(Outbox, mpsc::UnboundedReceiver<Note>)>,
}

impl Rig {
    async fn new() -> Self {
        let process = Process::for_test("notifications");
        let (env, tasks) = (process.env.clone(), process.tasks.clone());
        let (observer, notes) = channel();
        let ledger = Ledger::open(
            StoreConfig::simulated(&SimulatedDisk::new()),
            Notifications,
            observer,
            vec![Box::new(NotificationsProjection)],
            &env,
            &tasks,
            CommitterOptions::default(),
        )
        .await
        .expect("opened");
        let mailer = Arc::new(Picky::default());
        let outbox = Outbox {
            ledger: ledger.clone(),
            queries: Queries::new(ledger.reader()),
            mailer: Arc::clone(&mailer) as Arc<dyn Mailer>,
            from: "The shop <shop@example.com>".parse().expect("an address"),
            env,
            slots: Outbox::slots(),
        };
        Self {
            ledger,
            mailer,
            tasks,
            outbox: Some((outbox, notes)),
        }
    }

    fn start(&mut self) {
        let (outbox, notes) = self.outbox.take().expect("not started yet");
        self.tasks
            .spawn("outbox", run(outbox, notes, self.tasks.token()));
    }

    async fn placed(&self, orders: impl IntoIterator<Item = String>, contact_email: &str) {
        let placed = |order_id| {
            OrderNews::Placed(OrderPlaced {
                order_id,
                contact_email: contact_email.to_owned(),
                ..OrderPlaced::default()
            })
        };
        let follow = Command::Follow {
            news: orders.into_iter().map(placed).collect(),
            cursor: Cursor {
                consumer: "test".to_owned(),
                log_id: "log".to_owned(),
                position: 1,
            },
        };
        self.ledger.execute(follow).await.expect("recorded");
    }

    async fn state(&self, id: &str) -> NotificationRecord {
        self.ledger.load(&stream(id)).await.expect("loaded").0
    }
}

#[tokio::test]
async fn refused_mails_keep_nobody_elses_back() {
    let mut rig = Rig::new().await;
    for block in 0..=PLACES / 512 {
        let orders = (0..512).map(|order| format!("{block:03}-{order:03}"));
        rig.placed(orders, "refused@example.com").await;
    }
    rig.placed(["last".to_owned()], "alice@example.com").await;
    rig.start();
    let mut taken = rig.mailer.taken.subscribe();
    let taken = tokio::time::timeout(
        Duration::from_secs(60),
        taken.wait_for(|taken| !taken.is_empty()),
    );
    assert_eq!(
        *taken.await.expect("in time").expect("lives"),
        ["last.receipt"]
    );
    assert!(*rig.mailer.refusals.lock().unwrap() >= PLACES as u32);
    let _ = rig.tasks.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_again_and_again_has_failed() {
    let mut rig = Rig::new().await;
    rig.placed(["one".to_owned()], "refused@example.com").await;
    rig.start();
    let failed = loop {
        let record = rig.state("one.receipt").await;
        if record.state() != NotificationState::Pending {
            break record;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    };
    assert_eq!(failed.state(), NotificationState::Failed);
    assert_eq!(failed.failure.as_deref(), Some("refused with code 550"));
    assert_eq!(*rig.mailer.refusals.lock().unwrap(), REFUSALS);
    // Nobody tries it again, also not after a sweep.
    tokio::time::sleep(Duration::from_secs(7_200)).await;
    assert_eq!(*rig.mailer.refusals.lock().unwrap(), REFUSALS);
    // It is shown as that.
    let queries = Queries::new(rig.ledger.reader());
    let shown = loop {
        let all = queries.list(&Default::default()).await.expect("listed");
        let first = all.notifications.into_iter().next();
        if let Some(shown) = first.filter(|shown| shown.state() != NotificationState::Pending) {
            break shown;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    assert_eq!(
        (shown.state(), shown.failure.as_str()),
        (NotificationState::Failed, "refused with code 550")
    );
    let _ = rig.tasks.shutdown(Duration::from_secs(5)).await;
}
