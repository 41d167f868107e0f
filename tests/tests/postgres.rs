//! The system on PostgreSQL, on a temporary cluster.

use std::time::Duration;

use anyhow::Context as _;
use ledger::testing;
use sagamesh_tests::{Options, System, books};

/// The longest that open orders may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Orders end as they should, a killed coordinator comes back, and a restart finds everything.
async fn campaign(more: &[&str], prefix: &str) -> anyhow::Result<()> {
    let Some(postgres) = testing::postgres().await else {
        return Ok(());
    };
    let url = postgres.url("postgres");
    let fixed = ["--postgres", &url, "--database-prefix", prefix];
    let arguments: Vec<String> = fixed
        .iter()
        .chain(more)
        .map(|word| (*word).to_owned())
        .collect();
    let options = Options {
        arguments: arguments.clone(),
        ..Default::default()
    };
    let system = System::start_with(options).await?;
    system.restock("tea", 20, 450).await?;
    for method in ["pm_ok", "pm_declined", "pm_ok"] {
        system
            .run(&[
                "order",
                "place",
                "tea=2",
                "--payment-method",
                method,
                "--wait",
            ])
            .await?;
    }
    let orders = books::settled(&system, PATIENCE).await?;
    assert_eq!(orders.len(), 3);
    books::check(&system, &[("tea", 20)]).await?;
    let before = system.kill("coordinator").await?;
    system.until_back("coordinator", before).await?;
    system
        .sagamesh(&["order", "place", "tea=1", "--wait"])
        .await?;
    let (folder, _) = system.stop().await?;

    let folder = folder.context("no folder")?;
    let options = Options {
        arguments,
        folder: Some(folder.path().to_owned()),
        ..Default::default()
    };
    let again = System::start_with(options).await?;
    assert_eq!(books::settled(&again, PATIENCE).await?.len(), 4);
    books::check(&again, &[("tea", 20)]).await?;
    again.stop().await?;
    Ok(())
}

#[tokio::test]
async fn the_shop_runs_on_postgres_and_keeps_its_data() -> anyhow::Result<()> {
    campaign(&[], "one").await
}

#[tokio::test]
async fn every_service_of_the_shop_may_have_replicas_on_postgres() -> anyhow::Result<()> {
    campaign(
        &[
            "--replicas",
            "orders=2,inventory=2,payments=2,notifications=2",
        ],
        "two",
    )
    .await
}
