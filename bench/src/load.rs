//! Closed-loop clients: each starts a saga, waits for its end, and starts the next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use chassis::PeerChannel;
use hdrhistogram::Histogram;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{
    Saga, SagaState, StartSagasRequest, start_sagas_response::Result as Started,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::definition;

/// How long a saga may take before the answer is an error.
const WAIT_SECONDS: i64 = 30;
/// Clients that share a connection.
const CLIENTS_PER_CONNECTION: usize = 64;

/// How sagas are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// StartSaga, answered at the end.
    Unary,
    /// One StartSagas stream for all clients, answered at the end.
    Stream,
}

/// What one run does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) clients: usize,
    pub(crate) how: How,
    /// Every n-th saga is rejected at its last step; 0: none.
    pub(crate) reject_every: u64,
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// What was seen in the measured time.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Latencies of sagas that ended, in µs.
    pub(crate) micros: Histogram<u64>,
    pub(crate) completed: u64,
    pub(crate) compensated: u64,
}

impl Seen {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            micros: Histogram::new_with_bounds(1, 120_000_000, 3)?,
            completed: 0,
            compensated: 0,
        })
    }

    pub(crate) const fn ended(&self) -> u64 {
        self.completed + self.compensated
    }

    fn note(&mut self, saga: Option<Saga>, took: Duration, rejected: bool) -> anyhow::Result<()> {
        let saga = saga.context("an answer without the saga")?;
        match (saga.state(), rejected) {
            (SagaState::Completed, false) => self.completed += 1,
            (SagaState::Compensated, true) => self.compensated += 1,
            (other, _) => bail!(
                "saga {} is {other:?} (rejected: {rejected}): {:?}",
                saga.saga_id,
                saga.steps
            ),
        }
        self.micros
            .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// Runs the load. `at_start` and `at_end` are called around the measured time.
pub(crate) async fn run<T, Start, End>(
    channels: impl Fn() -> PeerChannel,
    plan: Plan,
    at_start: Start,
    at_end: End,
) -> anyhow::Result<(Seen, T)>
where
    Start: AsyncFnOnce() -> anyhow::Result<T>,
    End: AsyncFnOnce(&mut T) -> anyhow::Result<()>,
{
    let from = Instant::now() + plan.warm_up;
    let window = Window {
        from,
        until: from + plan.length,
    };
    let mut clients = JoinSet::new();
    match plan.how {
        How::Unary => {
            let connections = plan.clients.div_ceil(CLIENTS_PER_CONNECTION);
            let connections: Vec<_> = (0..connections).map(|_| channels()).collect();
            for number in 0..plan.clients {
                let channel = connections[number % connections.len()].clone();
                clients.spawn(unary(channel, window, number as u64, plan.reject_every));
            }
        }
        How::Stream => {
            clients.spawn(stream(channels(), window, plan));
        }
    }
    tokio::time::sleep_until(window.from.into()).await;
    let mut around = at_start().await?;
    tokio::time::sleep_until(window.until.into()).await;
    at_end(&mut around).await?;
    let mut seen = Seen::new()?;
    while let Some(client) = clients.join_next().await {
        let client = client??;
        seen.micros.add(&client.micros)?;
        seen.completed += client.completed;
        seen.compensated += client.compensated;
    }
    Ok((seen, around))
}

/// The measured time.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

impl Window {
    fn holds(&self, instant: Instant) -> bool {
        instant >= self.from && instant < self.until
    }
}

fn is_rejected(number: u64, every: u64) -> bool {
    every > 0 && number.is_multiple_of(every)
}

async fn unary(
    channel: PeerChannel,
    window: Window,
    offset: u64,
    reject_every: u64,
) -> anyhow::Result<Seen> {
    let channel = channel.with_default_deadline(Duration::from_secs(60));
    let mut client = SagaServiceClient::new(channel);
    let mut seen = Seen::new()?;
    for number in offset.. {
        let started = Instant::now();
        if started >= window.until {
            break;
        }
        let rejected = is_rejected(number, reject_every);
        let answer = client
            .start_saga(definition::start(rejected, WAIT_SECONDS))
            .await
            .context("StartSaga")?;
        let ended = Instant::now();
        if window.holds(ended) {
            seen.note(answer.into_inner().saga, ended - started, rejected)?;
        }
    }
    Ok(seen)
}

async fn stream(channel: PeerChannel, window: Window, plan: Plan) -> anyhow::Result<Seen> {
    let mut client = SagaServiceClient::new(channel);
    let mut seen = Seen::new()?;
    let (requests, outgoing) = mpsc::channel(plan.clients);
    let mut under_way: BTreeMap<u64, (Instant, bool)> = BTreeMap::new();
    let mut number = 0;
    let mut send = async |under_way: &mut BTreeMap<u64, (Instant, bool)>| {
        number += 1;
        let rejected = is_rejected(number, plan.reject_every);
        under_way.insert(number, (Instant::now(), rejected));
        let start = Some(definition::start(rejected, WAIT_SECONDS));
        requests
            .send(StartSagasRequest {
                correlation_id: number,
                start,
            })
            .await
    };
    for _ in 0..plan.clients {
        send(&mut under_way).await?;
    }
    let mut answers = client
        .start_sagas(ReceiverStream::new(outgoing))
        .await
        .context("StartSagas")?
        .into_inner();
    while let Some(answer) = answers.message().await? {
        let ended = Instant::now();
        let (started, rejected) = under_way
            .remove(&answer.correlation_id)
            .context("an answer to nothing")?;
        let Some(Started::Started(answer)) = answer.result else {
            bail!("a start was refused")
        };
        if window.holds(ended) {
            seen.note(answer.saga, ended - started, rejected)?;
        }
        if ended < window.until {
            send(&mut under_way).await?;
        } else if under_way.is_empty() {
            break;
        }
    }
    Ok(seen)
}
