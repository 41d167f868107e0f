//! The system on PostgreSQL, on a temporary cluster.

use ledger::testing;
use sagamesh_tests::{Options, System, books};

#[tokio::test]
async fn the_shop_runs_on_postgres_with_replicas_and_keeps_its_data() -> anyhow::Result<()> {
    let Some(postgres) = testing::postgres().await else {
        return Ok(());
    };
    let arguments = [
        "--postgres",
        &postgres.url("postgres"),
        "--replicas",
        "orders=2",
    ]
    .map(str::to_owned)
    .to_vec();
    let system = System::start_with(Options {
        arguments: arguments.clone(),
        ..Default::default()
    })
    .await?;
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
    let orders = books::settled(&system, std::time::Duration::from_secs(30)).await?;
    assert_eq!(orders.len(), 3);
    books::check(&system, &[("tea", 20)]).await?;
    let before = system.kill("coordinator").await?;
    system.until_back("coordinator", before).await?;
    system
        .sagamesh(&["order", "place", "tea=1", "--wait"])
        .await?;
    let (folder, _) = system.stop().await?;

    let folder = folder.ok_or_else(|| anyhow::anyhow!("no folder"))?;
    let again = System::start_with(Options {
        arguments,
        folder: Some(folder.path().to_owned()),
        ..Default::default()
    })
    .await?;
    assert_eq!(
        books::settled(&again, std::time::Duration::from_secs(30))
            .await?
            .len(),
        4
    );
    books::check(&again, &[("tea", 20)]).await?;
    again.stop().await?;
    Ok(())
}
