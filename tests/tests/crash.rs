//! `kill -9` of each process in turn during a stream of orders: nothing is lost.

use std::time::Duration;

use anyhow::Context as _;
use sagamesh_tests::campaign::{Blow, Customers, Outcome, rest_state};
use sagamesh_tests::{Options, System};

/// Orders that must have been accepted before the next process is struck.
const BETWEEN: usize = 8;

/// Strikes every service in turn while customers order; then everything must come to rest as it should.
async fn campaign(options: Options, blows: &[(Blow, &str)]) -> anyhow::Result<()> {
    let system = System::start_with(options).await?;
    let customers = Customers::start(&system).await?;
    for (blow, service) in blows {
        customers
            .more(BETWEEN)
            .await
            .with_context(|| format!("before {service}: {blow:?}"))?;
        blow.strike(&system, service).await?;
    }
    customers.more(BETWEEN).await.context("after the last")?;
    let ids = customers.stop().await?;
    let outcome = Outcome::of(&system, &ids, Duration::from_secs(120)).await?;
    assert!(
        outcome.lost.is_empty()
            && outcome.doubled.is_empty()
            && outcome.stuck.is_empty()
            && outcome.given_up.is_empty(),
        "{outcome:#?}"
    );
    assert_eq!(rest_state(&system).await?, None);
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn killing_each_process_in_turn_loses_nothing() -> anyhow::Result<()> {
    // A circuit breaker is meant to open when a service dies; a minute of it would only make the test longer.
    let environment = vec![("SAGAMESH_BREAKER_RECOVERY", "1s")];
    let options = Options {
        environment,
        ..Default::default()
    };
    campaign(
        options,
        &[
            "coordinator",
            "orders",
            "inventory",
            "payments",
            "notifications",
            "gateway",
            "coordinator",
        ]
        .map(|service| (Blow::Kill, service)),
    )
    .await
}

#[tokio::test]
async fn killing_replicas_on_postgres_in_turn_loses_nothing() -> anyhow::Result<()> {
    let Some(postgres) = ledger::testing::postgres().await else {
        return Ok(());
    };
    let fixed = [
        "--database-prefix",
        "crash",
        "--replicas",
        "gateway=2,orders=2,inventory=2,payments=2,notifications=2",
        "--postgres",
    ];
    let arguments = fixed.map(str::to_owned).into_iter();
    let options = Options {
        arguments: arguments.chain([postgres.url("postgres")]).collect(),
        environment: vec![("SAGAMESH_BREAKER_RECOVERY", "1s")],
        ..Default::default()
    };
    campaign(
        options,
        &[
            "payments-0",
            "orders-1",
            "inventory-0",
            "notifications-1",
            "gateway-0",
            "orders-0",
        ]
        .map(|service| (Blow::Kill, service)),
    )
    .await
}

#[tokio::test]
async fn killing_rolling_and_freezing_the_coordinators_replicas_loses_nothing() -> anyhow::Result<()>
{
    let Some(postgres) = ledger::testing::postgres().await else {
        return Ok(());
    };
    let url = postgres.url("postgres");
    let arguments = [
        "--postgres",
        &url,
        "--database-prefix",
        "three",
        "--replicas",
        "coordinator=3",
    ];
    let options = Options {
        arguments: arguments.map(str::to_owned).to_vec(),
        environment: vec![("SAGAMESH_BREAKER_RECOVERY", "1s")],
        ..Default::default()
    };
    let blows = [
        (Blow::Kill, "coordinator-0"),
        (Blow::Roll, "coordinator-1"),
        (Blow::Roll, "coordinator-2"),
        (Blow::Roll, "coordinator-0"),
        (Blow::Freeze, "coordinator-1"),
        (Blow::Kill, "coordinator-2"),
        (Blow::Kill, "coordinator-1"),
    ];
    campaign(options, &blows).await
}
