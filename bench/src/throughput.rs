//! Sagas per second: in memory, durable, with rejections, over one stream.

use std::time::Duration;

use crate::args::{Common, Throughput};
use crate::disk::Place;
use crate::load::{self, How, Plan};
use crate::process::{self, Running};
use crate::report::{self, Row};
use crate::system::{self, Coordinator, Keeping};

/// Every n-th saga of the run with rejections.
const REJECT_EVERY: u64 = 10;

/// The kinds of run: name, durable participants, how sagas start, every n-th rejected, only at this number of clients.
const RUNS: [(&str, bool, How, u64, Option<usize>); 4] = [
    ("memory", false, How::Unary, 0, None),
    ("memory, stream", false, How::Stream, 0, None),
    (
        "memory, 10% rejected",
        false,
        How::Unary,
        REJECT_EVERY,
        Some(64),
    ),
    ("durable", true, How::Unary, 0, None),
];

/// Runs all of them and prints the table and the last line.
pub(crate) async fn run(
    common: &Common,
    place: &Place,
    options: &Throughput,
) -> anyhow::Result<()> {
    report::heading();
    let mut rows = Vec::new();
    for (name, durable, how, reject_every, only_at) in RUNS {
        if options
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            continue;
        }
        let folder = place.folder(&name.replace([' ', ',', '%'], "-"))?;
        let keeping = if durable {
            Keeping::Durable(folder.clone())
        } else {
            Keeping::Memory
        };
        let (coordinator, participants) = system::whole(common, &folder, &keeping).await?;
        for &clients in options
            .clients
            .iter()
            .filter(|clients| only_at.is_none_or(|only| only == **clients))
        {
            let plan = Plan {
                clients,
                how,
                reject_every,
                warm_up: Duration::from_secs_f64(options.warm_up),
                length: Duration::from_secs_f64(options.seconds),
            };
            let row = one(name, &coordinator, &participants, plan).await?;
            row.print();
            rows.push(row);
        }
    }
    report::last_line(&rows);
    Ok(())
}

/// What was used so far.
struct Used {
    coordinator: Duration,
    participants: Duration,
    client: Duration,
    commits: f64,
}

impl Used {
    async fn so_far(coordinator: &Coordinator, participants: &[Running]) -> anyhow::Result<Self> {
        Ok(Self {
            coordinator: coordinator.process.cpu(),
            participants: participants.iter().map(Running::cpu).sum(),
            client: process::cpu("self"),
            commits: coordinator.commits().await?,
        })
    }
}

async fn one(
    name: &'static str,
    coordinator: &Coordinator,
    participants: &[Running],
    plan: Plan,
) -> anyhow::Result<Row> {
    let at_start = async || {
        let before = Used::so_far(coordinator, participants).await?;
        Ok((before, None))
    };
    let at_end = async |around: &mut (Used, Option<Used>)| {
        around.1 = Some(Used::so_far(coordinator, participants).await?);
        Ok(())
    };
    let (seen, (before, after)) =
        load::run(|| coordinator.channel(), plan, at_start, at_end).await?;
    let after = after.unwrap_or_else(|| unreachable!("the end was reached"));
    let ended = seen.ended().max(1) as f64;
    let per_saga = |after: Duration, before: Duration| {
        after.saturating_sub(before).as_secs_f64() * 1e6 / ended
    };
    Ok(Row {
        name,
        clients: plan.clients,
        per_second: seen.ended() as f64 / plan.length.as_secs_f64(),
        p50: Duration::from_micros(seen.micros.value_at_quantile(0.5)),
        p99: Duration::from_micros(seen.micros.value_at_quantile(0.99)),
        coordinator_us: per_saga(after.coordinator, before.coordinator),
        participants_us: per_saga(after.participants, before.participants),
        client_us: per_saga(after.client, before.client),
        commits: (after.commits - before.commits) / ended,
        rss_mb: coordinator.process.rss_mb(),
        compensated: seen.compensated,
        behind: coordinator.behind().await?,
    })
}
