//! How many events a ledger takes, and what they cost: `append [callers] [seconds] [streams per caller] [folder]`.
//!
//! Every caller executes one command after the other; each appends one event of 120 bytes. Every fourth command opens a new stream, as sagas do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chassis::{Env, Tasks};
use ledger::{CommitterOptions, Decider, Decision, Error, Ledger, StoreConfig, StreamId, View};

struct Counter;

struct Append {
    stream: StreamId,
    new: bool,
    last: bool,
}

#[derive(Default)]
struct State {
    events: u64,
    ended: bool,
}

impl Decider for Counter {
    type State = State;
    type Event = bool;
    type Command = Append;
    type Reply = u64;
    type Rejection = ();

    fn streams(&self, command: &Append) -> Vec<StreamId> {
        vec![command.stream.clone()]
    }

    fn expects_new(&self, command: &Append) -> bool {
        command.new
    }

    fn initial(&self, _stream: &StreamId) -> State {
        State::default()
    }

    fn evolve(&self, state: &mut State, last: &bool) {
        state.events += 1;
        state.ended = *last;
    }

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Append,
        _now: i64,
    ) -> Result<Decision<bool, u64>, ()> {
        let events = view.state(&command.stream).events + 1;
        Ok(Decision::new(events).event(command.stream.clone(), command.last))
    }

    fn encode(&self, last: &bool, buffer: &mut Vec<u8>) -> &'static str {
        buffer.resize(120, u8::from(*last));
        "bench.v1.Appended"
    }

    fn decode(&self, _type_name: &str, data: &[u8]) -> Result<bool, Error> {
        Ok(data.first() == Some(&1))
    }

    fn forget(&self, state: &State) -> bool {
        state.ended
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn argument(at: usize, default: u64) -> u64 {
    std::env::args()
        .nth(at)
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (callers, seconds, length) = (argument(1, 64), argument(2, 5), argument(3, 4));
    let folder = std::env::args()
        .nth(4)
        .map_or_else(|| std::env::temp_dir().join("sagamesh-append"), Into::into);
    // What an earlier run left there.
    let _ = std::fs::remove_dir_all(&folder);
    let tasks = Tasks::new();
    let config = StoreConfig::sqlite(&folder, "append");
    let ledger = Ledger::open(
        config,
        Counter,
        (),
        vec![],
        &Env::system(),
        &tasks,
        CommitterOptions::default(),
    )
    .await?;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut running = Vec::new();
    let (started, cpu_before) = (Instant::now(), cpu());
    for caller in 0..callers {
        let (ledger, stop, done) = (ledger.clone(), Arc::clone(&stop), Arc::clone(&done));
        running.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            let mut serial = 0u64;
            while !stop.load(Ordering::Relaxed) {
                serial += 1;
                let stream =
                    StreamId::of("saga", format_args!("{serial:012}-{caller:04}-0198c5f0"));
                for at in 0..length {
                    let begun = Instant::now();
                    let command = Append {
                        stream: stream.clone(),
                        new: at == 0,
                        last: at + 1 == length,
                    };
                    if ledger.execute(command).await.is_err() {
                        return latencies;
                    }
                    latencies.push(begun.elapsed().as_micros() as u32);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
            latencies
        }));
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for caller in running {
        latencies.extend(caller.await?);
    }
    let (took, spent) = (started.elapsed(), cpu() - cpu_before);
    latencies.sort_unstable();
    let at = |share: f64| {
        latencies
            .get((latencies.len() as f64 * share) as usize)
            .copied()
            .unwrap_or(0)
    };
    let events = done.load(Ordering::Relaxed);
    let commits = ledger.commits();
    println!(
        "callers={callers} events_per_second={:.0} cpu_us_per_event={:.2} commits={commits} events_per_commit={:.1} p50_us={} p99_us={} p999_us={}",
        events as f64 / took.as_secs_f64(),
        spent.as_micros() as f64 / events as f64,
        events as f64 / commits as f64,
        at(0.5),
        at(0.99),
        at(0.999),
    );
    tasks
        .shutdown(Duration::from_secs(5))
        .await
        .map_err(|names| anyhow::anyhow!("still running: {names:?}"))?;
    ledger.close().await;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
