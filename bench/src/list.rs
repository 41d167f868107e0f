//! A page of the list, with many ended sagas on disk.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{ListSagasRequest, SagaFilter, SagaState};

use crate::args::{Common, List};
use crate::definition;
use crate::disk::Place;
use crate::load::{self, How, Plan};
use crate::report::millis;
use crate::system::{self, Coordinator, Keeping};

/// Sagas that are written at a time.
const IN_FLIGHT: usize = 512;

/// Writes the sagas by running them, restarts the coordinator, and times pages.
pub(crate) async fn run(common: &Common, place: &Place, options: &List) -> anyhow::Result<()> {
    let folder = place.folder("list")?;
    let (coordinator, participants) = system::whole(common, &folder, &Keeping::Memory).await?;
    fill(&coordinator, options.sagas).await?;
    let rss = coordinator.process.rss_mb();
    let listen = coordinator.listen().to_owned();
    coordinator.process.kill().await?;
    drop(participants);
    let started = Instant::now();
    let coordinator = Coordinator::start(common, &folder, &listen).await?;
    println!(
        "restart after kill -9 with {} ended sagas: ready in {:.0} ms; memory {rss:.0} MB before, {:.0} MB after",
        options.sagas,
        millis(started.elapsed()),
        coordinator.process.rss_mb(),
    );
    let state = |state: SagaState| SagaFilter {
        states: vec![state.into()],
        ..SagaFilter::default()
    };
    let named = SagaFilter {
        definitions: vec![definition::NAME.into()],
        ..SagaFilter::default()
    };
    let cases = [
        ("no filter", SagaFilter::default()),
        ("by definition", named),
        ("completed", state(SagaState::Completed)),
        ("parked (none)", state(SagaState::Parked)),
    ];
    for (name, filter) in cases {
        pages(&coordinator, name, filter, options.pages).await?;
    }
    Ok(())
}

/// Runs sagas until so many have ended.
pub(crate) async fn fill(coordinator: &Coordinator, sagas: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut ended = 0;
    while ended < sagas {
        let plan = Plan {
            clients: IN_FLIGHT,
            how: How::Stream,
            reject_every: 0,
            warm_up: Duration::ZERO,
            length: Duration::from_secs(5),
        };
        let (seen, ()) = load::run(
            || coordinator.channel(),
            plan,
            async || Ok(()),
            async |(): &mut ()| Ok(()),
        )
        .await?;
        ended += seen.ended();
        println!(
            "{ended} sagas ended after {:.0} s",
            started.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

async fn pages(
    coordinator: &Coordinator,
    name: &str,
    filter: SagaFilter,
    pages: u32,
) -> anyhow::Result<()> {
    let mut client = SagaServiceClient::new(coordinator.channel());
    let mut micros: Histogram<u64> = Histogram::new_with_bounds(1, 120_000_000, 3)?;
    let (mut page_token, mut sagas) = (String::new(), 0);
    for _ in 0..pages {
        let request = ListSagasRequest {
            filter: Some(filter.clone()),
            page_size: 50,
            page_token,
        };
        let started = Instant::now();
        let page = client.list_sagas(request).await?.into_inner();
        micros.saturating_record(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        sagas += page.sagas.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    println!(
        "list, {name}: {} pages with {sagas} sagas, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
        micros.len(),
        micros.value_at_quantile(0.5) as f64 / 1e3,
        micros.value_at_quantile(0.99) as f64 / 1e3,
        micros.max() as f64 / 1e3,
    );
    Ok(())
}
