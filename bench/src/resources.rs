//! What each process of the shop needs at a given rate of orders: the figures behind `requests` and `limits` in `k8s/`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::args::Resources;
use crate::disk::Place;
use crate::process;
use crate::shop::Open;

/// How often each process is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Requests are rounded up to these.
const MILLI_STEP: f64 = 10.0;
const MEBI_STEP: f64 = 8.0;
const MEBI: f64 = 1024.0 * 1024.0;

/// What was seen of a process.
#[derive(Debug, Default)]
struct Seen {
    idle_bytes: f64,
    most_bytes: f64,
    /// The most of a core in any one look, in thousandths.
    most_milli: f64,
    used: Duration,
}

/// Starts the shop, orders at a steady rate, and prints a table.
pub(crate) async fn run(place: &Place, options: &Resources) -> anyhow::Result<()> {
    let folder = place.folder("resources")?;
    let (shop, _launcher, _) = Open::start(&folder, options.sagamesh.as_deref()).await?;
    shop.restock().await?;
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for (name, pid) in shop.pids() {
        let seen = seen.entry(name.clone()).or_default();
        seen.idle_bytes = process::rss_bytes(pid);
    }
    let length = Duration::from_secs_f64(options.seconds);
    let orders = tokio::spawn(order(shop.clone(), options.rate, length));
    watch(&shop, &mut seen, length).await;
    let ended = orders.await.context("the orders ended badly")??;
    println!(
        "{:.0} orders a second for {:.0} s, {ended} confirmed",
        options.rate, options.seconds
    );
    println!(
        "{:>26} {:>8} {:>8} {:>9} {:>9}   requests",
        "process", "idle MB", "most MB", "mean mCPU", "most mCPU"
    );
    for (name, seen) in &seen {
        let mean = seen.used.as_secs_f64() / options.seconds * 1e3;
        println!(
            "{name:>26} {:>8.1} {:>8.1} {mean:>9.0} {:>9.0}   cpu: {:.0}m, memory: {:.0}Mi",
            seen.idle_bytes / 1e6,
            seen.most_bytes / 1e6,
            seen.most_milli,
            up(mean, MILLI_STEP),
            up(seen.most_bytes / MEBI, MEBI_STEP),
        );
    }
    Ok(())
}

/// Places orders at a steady rate, whatever becomes of the ones before; returns how many were confirmed.
async fn order(shop: Open, rate: f64, length: Duration) -> anyhow::Result<u64> {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let until = Instant::now() + length;
    let mut orders = JoinSet::new();
    let mut number = 0;
    while Instant::now() < until {
        ticks.tick().await;
        let shop = shop.clone();
        orders.spawn(async move { shop.order_number(number).await });
        number += 1;
    }
    let mut confirmed = 0;
    while let Some(order) = orders.join_next().await {
        confirmed += u64::from(order?? == "CONFIRMED");
    }
    Ok(confirmed)
}

/// Looks at every process again and again.
async fn watch(shop: &Open, seen: &mut BTreeMap<String, Seen>, length: Duration) {
    let cpu = || -> Vec<Duration> {
        let pids = shop.pids().iter();
        pids.map(|(_, pid)| process::cpu(pid)).collect()
    };
    let begun = Instant::now();
    let (first, mut last, mut looked) = (cpu(), cpu(), Instant::now());
    while begun.elapsed() < length {
        tokio::time::sleep(LOOK).await;
        let now = cpu();
        let passed = looked.elapsed().as_secs_f64();
        looked = Instant::now();
        for (at, (name, pid)) in shop.pids().iter().enumerate() {
            let Some(seen) = seen.get_mut(name) else {
                continue;
            };
            let used = now[at].saturating_sub(last[at]).as_secs_f64();
            seen.most_milli = seen.most_milli.max(used / passed * 1e3);
            seen.most_bytes = seen.most_bytes.max(process::rss_bytes(pid));
            seen.used = now[at].saturating_sub(first[at]);
        }
        last = now;
    }
}

/// Up to the next multiple.
fn up(value: f64, step: f64) -> f64 {
    (value / step).ceil().max(1.0) * step
}
