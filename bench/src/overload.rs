//! More than there is room for: starts come at three times the rate that the coordinator can do, for a minute. It must
//! refuse what is too much, finish what it accepted, hold its memory, and be well as soon as the rate falls.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chassis::PeerChannel;
use hdrhistogram::Histogram;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{SagaState, StartSagaResponse};
use tonic::Code;

use crate::args::{Common, Overload};
use crate::definition;
use crate::disk::Place;
use crate::load::{self, How, Plan};
use crate::system::{self, Coordinator, Keeping};

/// How long a start may take before its answer does not count.
const WAIT_SECONDS: i64 = 30;
/// Clients that find out what the coordinator can do.
const CLIENTS: usize = 256;
/// Connections of the overload.
const CONNECTIONS: usize = 8;
/// Calls of this program that may be under way: what it cannot even send is counted apart.
const MAX_UNDER_WAY: i64 = 60_000;
/// How often starts are sent.
const TICK: Duration = Duration::from_millis(5);
/// After which memory should not grow any more.
const SETTLED: Duration = Duration::from_secs(15);

/// Runs it, and prints a line for each phase and a last line.
pub(crate) async fn run(common: &Common, place: &Place, options: &Overload) -> anyhow::Result<()> {
    let folder = place.folder("overload")?;
    let (coordinator, _participants) = system::whole(common, &folder, &Keeping::Memory).await?;
    let before = closed(&coordinator, CLIENTS, Duration::from_secs(5)).await?;
    println!(
        "capacity: {:.0} sagas a second with {CLIENTS} clients, p50 {:.1} ms, RSS {:.0} MB",
        before.rate,
        before.p50_ms,
        coordinator.process.rss_mb()
    );
    let offered = before.rate * options.times;
    println!("offering {offered:.0} a second for {} s", options.seconds);
    let (counts, memory) = open(
        &coordinator,
        offered,
        Duration::from_secs_f64(options.seconds),
    )
    .await?;
    let ended = counts.ended.load(Ordering::Relaxed);
    let refused = counts.refused.load(Ordering::Relaxed);
    let late = counts.late.load(Ordering::Relaxed);
    let failed = counts.failed.load(Ordering::Relaxed);
    println!(
        "of {} starts: {ended} ended, {refused} refused (RESOURCE_EXHAUSTED), {late} answered too late, {failed} failed otherwise, {} not sent",
        counts.sent.load(Ordering::Relaxed),
        counts.unsent.load(Ordering::Relaxed),
    );
    if let Some(why) = counts
        .why
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()
    {
        println!("the first failure: {why}");
    }
    let after = closed(&coordinator, CLIENTS, Duration::from_secs(5)).await?;
    println!(
        "right after it: {:.0} sagas a second, p50 {:.1} ms",
        after.rate, after.p50_ms
    );
    println!(
        "overload_bench capacity_per_second={:.0} offered_per_second={offered:.0} ended_per_second={:.0} refused={refused} failed={failed} rss_mb_early={:.0} rss_mb_late={:.0} after_per_second={:.0}",
        before.rate,
        ended as f64 / options.seconds,
        memory.early,
        memory.late,
        after.rate,
    );
    Ok(())
}

struct Rate {
    rate: f64,
    p50_ms: f64,
}

/// What closed-loop clients get done.
async fn closed(
    coordinator: &Coordinator,
    clients: usize,
    length: Duration,
) -> anyhow::Result<Rate> {
    let plan = Plan {
        clients,
        how: How::Unary,
        reject_every: 0,
        warm_up: Duration::from_secs(1),
        length,
    };
    let nothing = async || Ok(());
    let (seen, ()) = load::run(|| coordinator.channel(), plan, nothing, async |()| Ok(())).await?;
    Ok(Rate {
        rate: seen.ended() as f64 / length.as_secs_f64(),
        p50_ms: seen.micros.value_at_quantile(0.5) as f64 / 1000.0,
    })
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    unsent: AtomicU64,
    ended: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    failed: AtomicU64,
    under_way: AtomicI64,
    why: Mutex<Option<String>>,
    micros: Mutex<Option<Histogram<u64>>>,
}

/// Resident memory of the coordinator: its most in the first seconds, and after them.
struct Memory {
    early: f64,
    late: f64,
}

/// Starts come at this rate, whatever becomes of them.
async fn open(
    coordinator: &Coordinator,
    rate: f64,
    length: Duration,
) -> anyhow::Result<(Arc<Counts>, Memory)> {
    let counts = Arc::new(Counts::default());
    *counts.micros.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Histogram::new_with_bounds(1, 120_000_000, 3)?);
    let channels: Vec<PeerChannel> = (0..CONNECTIONS).map(|_| coordinator.channel()).collect();
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    let mut due = 0.0;
    let mut memory = Memory {
        early: 0.0,
        late: 0.0,
    };
    let mut next = 0;
    while begun.elapsed() < length {
        ticks.tick().await;
        let so_far = rate * begun.elapsed().as_secs_f64();
        while due < so_far {
            due += 1.0;
            if counts.under_way.load(Ordering::Relaxed) >= MAX_UNDER_WAY {
                counts.unsent.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            next = (next + 1) % channels.len();
            counts.sent.fetch_add(1, Ordering::Relaxed);
            counts.under_way.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(start(channels[next].clone(), Arc::clone(&counts)));
        }
        let most = if begun.elapsed() < SETTLED {
            &mut memory.early
        } else {
            &mut memory.late
        };
        *most = most.max(coordinator.process.rss_mb());
    }
    let limit = Instant::now() + Duration::from_secs(2 * WAIT_SECONDS.unsigned_abs());
    while counts.under_way.load(Ordering::Relaxed) > 0 {
        anyhow::ensure!(Instant::now() < limit, "starts were never answered");
        tokio::time::sleep(TICK).await;
    }
    let micros = counts
        .micros
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let micros = micros.context("no latencies")?;
    println!(
        "those that ended: p50 {:.1} ms, p99 {:.1} ms",
        micros.value_at_quantile(0.5) as f64 / 1000.0,
        micros.value_at_quantile(0.99) as f64 / 1000.0
    );
    Ok((counts, memory))
}

async fn start(channel: PeerChannel, counts: Arc<Counts>) {
    let channel = channel.with_default_deadline(Duration::from_secs(60));
    let began = Instant::now();
    let answer = SagaServiceClient::new(channel)
        .start_saga(definition::start(false, WAIT_SECONDS))
        .await;
    counts.under_way.fetch_sub(1, Ordering::Relaxed);
    let counter = match &answer {
        Ok(answer) if !is_completed(answer.get_ref()) => &counts.late,
        Ok(_) => &counts.ended,
        Err(status) if status.code() == Code::ResourceExhausted => &counts.refused,
        Err(status) if status.code() == Code::DeadlineExceeded => &counts.late,
        Err(status) => {
            let mut why = counts.why.lock().unwrap_or_else(PoisonError::into_inner);
            why.get_or_insert_with(|| status.to_string());
            &counts.failed
        }
    };
    counter.fetch_add(1, Ordering::Relaxed);
    if answer.is_ok_and(|answer| is_completed(answer.get_ref()))
        && let Some(micros) = counts
            .micros
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
    {
        micros.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

fn is_completed(answer: &StartSagaResponse) -> bool {
    answer
        .saga
        .as_ref()
        .is_some_and(|saga| saga.state() == SagaState::Completed)
}
