//! Several replicas on one PostgreSQL: whoever is killed, stopped or stands still, its sagas go on elsewhere, once.

use std::time::Duration;

use coordinator::Options;
use ledger::StoreConfig;
use sagamesh_api::saga::v1::*;
use sqlx::Connection as _;

use crate::support::*;

mod any_replica;
mod leases;
mod takeover;

/// Runs out soon.
const SHORT: Duration = Duration::from_secs(2);
/// Does not run out in a test: what is handed over then is handed over on purpose.
const LONG: Duration = Duration::from_secs(3600);

/// A database for replicas.
struct Cluster {
    url: String,
    lease: Duration,
}

impl Cluster {
    /// `None` when PostgreSQL is not on this machine.
    async fn new(lease: Duration) -> Option<Self> {
        let url = ledger::testing::postgres().await?.database().await;
        Some(Self { url, lease })
    }

    async fn connection(&self) -> sqlx::PgConnection {
        let connected = sqlx::PgConnection::connect(&self.url).await;
        connected.expect("PostgreSQL answers")
    }

    async fn start(&self, number: usize) -> System {
        let options = Options {
            replica: format!("coordinator-{number}"),
            lease: self.lease,
            ..options()
        };
        System::start_on(StoreConfig::postgres(&self.url, "coordinator"), options).await
    }
}

/// No lease is renewed until this transaction ends.
async fn hold_renewals(hand: &mut sqlx::PgConnection) -> sqlx::Transaction<'_, sqlx::Postgres> {
    let mut held = hand.begin().await.expect("begun");
    sqlx::query("SELECT 1 FROM coordinator.ledger_owners FOR UPDATE")
        .execute(&mut *held)
        .await
        .expect("held");
    held
}

/// Two replicas that know of each other.
async fn pair(cluster: &Cluster) -> (System, System) {
    let (zero, one) = (cluster.start(0).await, cluster.start(1).await);
    soon("the first one to hear of the second", async {
        loop {
            let first = participate_request::Message::Hello(hello("c", "probe", &["probe"], 1));
            let mut link = zero.raw_link(first).await.expect("a stream");
            match link.next().await.expect("no error") {
                Some(participate_response::Message::Welcome(it)) if it.peers.len() == 2 => return,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    (zero, one)
}

/// Two steps of participant a, one after the other.
fn two_steps() -> Definition {
    definition(
        "order",
        vec![step("a", "one", &[]), step("a", "two", &["one"])],
    )
}

const ACTIONS: [&str; 4] = ["one.do", "one.undo", "two.do", "two.undo"];

/// One step that waits for a signal, then one of participant a.
fn with_signal() -> Definition {
    let mut wait = step("a", "wait", &[]);
    wait.phase = Phase::ReadOnly.into();
    wait.kind = Some(step::Kind::Signal(Signal {
        name: "go".to_owned(),
        ..Signal::default()
    }));
    definition("signal", vec![wait, step("a", "one", &["wait"])])
}

/// The shard that a saga was started in.
fn shard(event: &SagaEvent) -> i64 {
    match event
        .transitions
        .first()
        .and_then(|first| first.kind.clone())
    {
        Some(transition::Kind::Started(started)) => started.shard,
        other => panic!("not a start: {other:?}"),
    }
}

/// Watching ended with the saga, and missed and repeated nothing.
fn whole(events: &[SagaEvent]) -> bool {
    let versions: Vec<u64> = events.iter().map(|event| event.version).collect();
    versions == (1..=events.len() as u64).collect::<Vec<_>>()
}
