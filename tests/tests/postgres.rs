//! The system on PostgreSQL, on a temporary cluster.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ledger::testing::{self, TemporaryPostgres};
use sagamesh_tests::campaign::{Customers, open_sagas, rest_state};
use sagamesh_tests::{Options, System, books};
use tokio::process::Command;

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

/// The coordinator's database first, those of its participants after it; notifications, which follow the orders, before them.
const DUMPED: [&str; 5] = [
    "coordinator",
    "notifications",
    "inventory",
    "payments",
    "orders",
];

async fn dump(postgres: &TemporaryPostgres, prefix: &str, folder: &Path) -> anyhow::Result<()> {
    for database in DUMPED {
        let mut dump = Command::new(postgres.program("pg_dump"));
        dump.args(["-Fc", "-f"])
            .arg(folder.join(database))
            .arg(postgres.url(&format!("{prefix}_{database}")));
        succeed(dump).await?;
    }
    Ok(())
}

/// The system of `prefix`, from dumps.
async fn restored(
    postgres: &TemporaryPostgres,
    prefix: &str,
    folder: &Path,
) -> anyhow::Result<System> {
    for database in DUMPED {
        let name = format!("{prefix}_{database}");
        let mut create = Command::new(postgres.program("createdb"));
        create
            .args(["--maintenance-db", &postgres.url("postgres")])
            .arg(&name);
        succeed(create).await?;
        let mut restore = Command::new(postgres.program("pg_restore"));
        restore
            .args(["-d", &postgres.url(&name)])
            .arg(folder.join(database));
        succeed(restore).await?;
    }
    System::start_with(on(postgres, prefix)).await
}

async fn succeed(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().await;
    let status = status.with_context(|| format!("{command:?} does not start"))?;
    anyhow::ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn on(postgres: &TemporaryPostgres, prefix: &str) -> Options {
    let url = postgres.url("postgres");
    let arguments = ["--postgres", &url, "--database-prefix", prefix];
    Options {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_pg_dump_takes_under_load_is_restored_and_every_saga_finishes() -> anyhow::Result<()> {
    let Some(postgres) = testing::postgres().await else {
        return Ok(());
    };
    let (busy, quiet) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let system = System::start_with(on(postgres, "dumped")).await?;
    let customers = Customers::start(&system).await?;
    customers.more(20).await?;
    dump(postgres, "dumped", busy.path()).await?;
    customers.more(5).await?;
    // And once more after the intake has stopped and everything has ended.
    let placed = customers.stop().await?;
    let ended = books::settled(&system, PATIENCE).await?;
    assert_eq!(ended.len(), placed.len());
    anyhow::ensure!(rest_state(&system).await?.is_none());
    dump(postgres, "dumped", quiet.path()).await?;
    system.stop().await?;

    let system = restored(postgres, "busy", busy.path()).await?;
    let orders = books::settled(&system, PATIENCE).await?;
    assert!(orders.len() >= 20, "{} orders", orders.len());
    let known = orders.iter().all(|order| placed.contains(&order.order_id));
    assert!(known, "an order that nobody placed");
    // The orders' database is the younger one: they may have ended before the sagas that end them.
    let begun = Instant::now();
    while let Some(open) = open_sagas(&system).await? {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{open}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let balance = books::trial_balance(&system).await?;
    assert!(balance.balanced, "{:?}", balance.sums);
    // It goes on as a shop.
    system
        .sagamesh(&["order", "place", "tea=1", "--wait"])
        .await?;
    system.stop().await?;

    let system = restored(postgres, "quiet", quiet.path()).await?;
    assert_eq!(books::settled(&system, PATIENCE).await?.len(), placed.len());
    assert_eq!(rest_state(&system).await?, None);
    system.stop().await?;
    Ok(())
}
