//! Who can read a system's files, and who can reach it.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::Method;
use sagamesh_tests::secrets::tree;
use sagamesh_tests::{Options, System, rest, sockets};

use crate::{CUSTOMER, PATIENCE, order, processes};

#[tokio::test]
async fn nobody_else_can_read_a_data_folder() -> anyhow::Result<()> {
    let above = tempfile::tempdir()?;
    let data = above.path().join("data");
    let system = System::start_with(Options {
        folder: Some(data.clone()),
        ..Default::default()
    })
    .await?;
    system.restock("tea", 5, 450).await?;
    let token = system.token(CUSTOMER).await?;
    let headers = [("prefer", "wait=60")];
    let body = Some(order("pm_ok").to_string());
    let gateway = system.gateway()?;
    let placed = rest::send(
        Method::POST,
        &gateway,
        "/v1/orders",
        Some(&token),
        &headers,
        body,
    );
    assert_eq!(placed.await?.json["status"], "CONFIRMED");
    // The mail of the order is the last that is written.
    let begun = Instant::now();
    while !tree(&data)?
        .iter()
        .any(|path| path.extension() == Some("eml".as_ref()))
    {
        ensure!(begun.elapsed() < PATIENCE, "no mail: {:?}", tree(&data)?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let backup = above.path().join("backup");
    system
        .sagamesh(&["backup", &backup.display().to_string()])
        .await?;

    let mut names = Vec::new();
    for path in [tree(&data)?, tree(&backup)?].concat() {
        // SQLite's own come and go.
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        let mode = metadata.permissions().mode() & 0o777;
        let most = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode & !most, 0, "{} has mode {mode:o}", path.display());
        names.push(path.strip_prefix(above.path())?.display().to_string());
    }
    for name in [
        "data/orders.db",
        "data/logs/payments.log",
        "data/mesh/ca.key",
        "data/mesh/tokens/orders-0",
        "data/dev-signing-key.pem",
        "backup/payments.db",
    ] {
        assert!(
            names.iter().any(|known| known == name),
            "no {name}: {names:?}"
        );
    }
    system.stop().await?;
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_system_listens_on_loopback_alone() -> anyhow::Result<()> {
    let system = System::start_with(Options {
        arguments: vec!["--replicas".into(), "gateway=2".into()],
        ..Default::default()
    })
    .await?;
    let record = system.record()?;
    let mut pids = vec![record["launcher_pid"].as_u64().context("no launcher")?];
    for process in processes(&record)? {
        pids.push(process["pid"].as_u64().context("a process that is away")?);
    }
    let mut count = 0;
    for pid in &pids {
        let listening = sockets::listening(*pid)?;
        assert!(!listening.is_empty(), "process {pid} listens nowhere");
        for (address, port) in listening {
            assert!(
                address.is_loopback(),
                "process {pid} listens on {address}:{port}"
            );
            count += 1;
        }
    }
    // Each process has two at least, and a sidecar three.
    assert!(count >= 2 * pids.len(), "{count} sockets of {}", pids.len());
    system.stop().await?;
    Ok(())
}
