//! Replicas, on the stage: one of two is killed under load, and nobody's order fails.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sagamesh_api::mesh::v1::registry_service_client::RegistryServiceClient;
use sagamesh_api::mesh::v1::{WatchRequest, WatchResponse};
use sagamesh_api::shop::orders::v1::OrderStatus;
use sagamesh_api::shop::payments::v1::GetTrialBalanceRequest;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::load::{Load, Placed};
use super::mesh::mesh;
use super::stage::Stage;
use crate::connect;
use crate::failure::from_status;
use crate::output;

/// Orders before the kill, and after everybody is back.
const ORDERS: usize = 12;
/// Time between two looks at the books.
const LOOK: Duration = Duration::from_millis(20);
/// The longest that a change of the registry may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of two gateways.
pub(super) async fn gateway(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let load = Load::begin(stage)?;
    load.go_on(ORDERS).await?;
    stage.kill("gateway")?.wait().await?;
    load.go_on(ORDERS).await?;
    let placed = load.end().await?;
    let mut complaints = judge(stage, &placed).await?;
    output::line(&format!(
        "   {}; {} connections broke, and their requests came again under the same Idempotency-Key",
        summary(&placed, &complaints),
        placed.broken
    ));
    if placed.broken == 0 {
        complaints.push("nobody was connected to the gateway that was killed".to_owned());
    }
    Ok(complaints)
}

/// One of two replicas of payments.
pub(super) async fn payments(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let mut registry = registry(stage).await?;
    until(&mut registry, &["payments-0", "payments-1"]).await?;
    output::line("   in the registry: payments-0, payments-1");
    let load = Load::begin(stage)?;
    let stop = CancellationToken::new();
    let reading = tokio::spawn(read_books(stage.payments.clone(), stop.clone()));
    load.go_on(ORDERS).await?;
    let begun = Instant::now();
    let back = stage.kill("payments")?;
    for instances in [&["payments-1"][..], &["payments-0", "payments-1"]] {
        until(&mut registry, instances).await?;
        output::line(&format!(
            "   in the registry: {}, {:.1} s after the kill",
            instances.join(", "),
            begun.elapsed().as_secs_f64()
        ));
    }
    back.wait().await?;
    load.go_on(ORDERS).await?;
    let placed = load.end().await?;
    stop.cancel();
    let (reads, answered) = reading.await.context("reading the books panicked")?;
    let complaints = judge(stage, &placed).await?;
    output::line(&format!("   {}", summary(&placed, &complaints)));
    // A call that was with the one that died may wait for it in vain; the saga's own calls are repeated.
    output::line(&format!(
        "   the books were read {reads} times meanwhile, {answered} times with an answer"
    ));
    Ok(complaints)
}

fn summary(placed: &Placed, complaints: &[String]) -> String {
    let all = match complaints.len() {
        0 => "all of them confirmed".to_owned(),
        failed => format!("{failed} of them FAILED"),
    };
    let orders = placed.orders.len() + placed.failures.len();
    format!("{orders} orders in {:.1} s, {all}", placed.seconds)
}

/// What is otherwise than it should with the orders: each must be confirmed.
async fn judge(stage: &mut Stage, placed: &Placed) -> anyhow::Result<Vec<String>> {
    let mut complaints: Vec<_> = placed
        .failures
        .iter()
        .map(|answer| format!("an order was answered with {answer}"))
        .collect();
    for (order_id, state) in &placed.orders {
        stage.orders.push(order_id.clone());
        // One that took longer than its request.
        let confirmed = state == "CONFIRMED"
            || stage.shop.until_ended(order_id).await?.status() == OrderStatus::Confirmed;
        if !confirmed {
            complaints.push(format!("order {order_id} was not confirmed"));
        }
    }
    Ok(complaints)
}

/// The healthy instances of payments, whenever they change.
async fn registry(stage: &Stage) -> anyhow::Result<Streaming<WatchResponse>> {
    let request = WatchRequest {
        service: "payments".into(),
        tag: String::new(),
    };
    let answer = RegistryServiceClient::new(connect::channel(&mesh(stage)?.control))
        .watch(request)
        .await;
    Ok(answer
        .map_err(|status| from_status("meshd", "watching payments", &status))?
        .into_inner())
}

/// Returns once exactly these are healthy.
async fn until(registry: &mut Streaming<WatchResponse>, expected: &[&str]) -> anyhow::Result<()> {
    let waiting = async {
        loop {
            let next = registry.message().await;
            let next = next.map_err(|status| from_status("meshd", "watching payments", &status))?;
            let next = next.context("the registry says no more")?;
            let specs = next.instances.into_iter().filter_map(|one| one.spec);
            let mut ids: Vec<_> = specs.map(|spec| spec.instance_id).collect();
            ids.sort();
            if ids == expected {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .with_context(|| format!("the registry never has {} alone", expected.join(", ")))?
}

/// Reads the books through the mesh until told to stop: how often, and how often there was an answer.
async fn read_books(mut payments: super::stage::Payments, stop: CancellationToken) -> (u32, u32) {
    let (mut reads, mut answered) = (0, 0);
    while !stop.is_cancelled() {
        let request = connect::request(GetTrialBalanceRequest {});
        reads += 1;
        answered += u32::from(payments.get_trial_balance(request).await.is_ok());
        tokio::time::sleep(LOOK).await;
    }
    (reads, answered)
}
