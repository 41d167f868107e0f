//! What the launcher promises: nothing outlives it, systems run side by side, data survives, errors are sentences.

use std::process::Stdio;
use std::time::{Duration, Instant};

use sagamesh_tests::system::runs;
use sagamesh_tests::{Options, System, binaries, books};
use tokio::process::Command;

async fn run(
    arguments: &[&str],
    folder: &std::path::Path,
) -> anyhow::Result<(Option<i32>, String)> {
    run_with(arguments, folder, &[]).await
}

async fn run_with(
    arguments: &[&str],
    folder: &std::path::Path,
    environment: &[(&str, &str)],
) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(binaries::path("sagamesh")?);
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .env("SAGAMESH_DATA_DIR", folder)
        .env("SAGAMESH_BIN_DIR", binaries::folder()?);
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

fn pids(system: &System) -> anyhow::Result<Vec<u64>> {
    let record = system.record()?;
    let processes = record["processes"].as_array().cloned().unwrap_or_default();
    Ok(processes
        .iter()
        .filter_map(|process| process["pid"].as_u64())
        .collect())
}

async fn until_gone(pids: &[u64]) -> anyhow::Result<()> {
    let begun = Instant::now();
    for pid in pids {
        while runs(*pid).await? {
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(15),
                "process {pid} outlives its launcher"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn children_end_with_a_killed_launcher_and_the_data_stays() -> anyhow::Result<()> {
    let first = System::start().await?;
    first.restock("tea", 7, 450).await?;
    let placed = first
        .sagamesh(&["order", "place", "tea=2", "--wait"])
        .await?;
    assert!(placed.contains("CONFIRMED"), "{placed}");
    let (pids, gateway) = (pids(&first)?, first.gateway()?);
    // Six services, a sidecar beside each and the operator's, the control plane.
    assert_eq!(pids.len(), 14);
    let folder = first.kill_launcher().await?;
    until_gone(&pids).await?;

    let second = System::start_with(Options {
        folder: Some(folder.clone()),
        ..Default::default()
    })
    .await?;
    assert_eq!(second.gateway()?, gateway, "a restart keeps its ports");
    books::check(&second, &[("tea", 7)]).await?;
    second.stop().await?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[tokio::test]
async fn systems_run_side_by_side_and_share_no_folder() -> anyhow::Result<()> {
    let (first, second) = tokio::try_join!(System::start(), System::start())?;
    assert_ne!(first.gateway()?, second.gateway()?);
    first.restock("tea", 7, 450).await?;
    assert_eq!(books::items(&second).await?, vec![]);
    let (code, message) = run(&["up", "--port", "0"], first.folder()).await?;
    assert_eq!(code, Some(4), "{message}");
    assert!(message.contains("in use by another sagamesh"), "{message}");
    let port = first
        .gateway()?
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    let folder = tempfile::tempdir()?;
    let (code, message) = run(&["up", "--port", &port], folder.path()).await?;
    assert_eq!(code, Some(1), "{message}");
    assert!(
        message.contains(&format!("port {port} of the gateway is in use"))
            && message.contains("--port"),
        "{message}"
    );
    let pids = pids(&first)?;
    let (_folder, printed) = first.stop().await?;
    assert_eq!(printed, "");
    until_gone(&pids).await?;
    second.stop().await?;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_a_sentence() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let empty = folder.path().display().to_string();
    let cases: [(&[&str], i32, &str); 12] = [
        (&["up", "--replicas", "orders=2"], 2, "needs --postgres"),
        (&["up", "--replicas", "gateway=6"], 2, "1 to 5"),
        (
            &[
                "up",
                "--replicas",
                "coordinator=4",
                "--postgres",
                "postgres://127.0.0.1:1/x",
            ],
            2,
            "1 to 3",
        ),
        (&["up", "--services", "order"], 2, "no service named order"),
        (
            &["up", "--port", "0", "--bin-dir", &empty],
            1,
            "cargo build",
        ),
        (
            &[
                "up",
                "--port",
                "0",
                "--postgres",
                "postgres://127.0.0.1:1/x",
            ],
            3,
            "cannot connect to PostgreSQL",
        ),
        (&["saga", "list"], 3, "sagamesh up"),
        (&["token", "--sub", "a b"], 2, "without spaces"),
        (&["restore", "/none"], 4, "`sagamesh backup` wrote"),
        (
            &["stock", "restock", "tea", "--", "-5"],
            2,
            "1 to 1,000,000,000",
        ),
        (&["order", "place", "tea"], 3, "sagamesh up"),
        (&["saga", "retry", "--reason", "x"], 3, "sagamesh up"),
    ];
    for (arguments, code, says) in cases {
        let (got, message) = run(arguments, folder.path()).await?;
        assert_eq!(got, Some(code), "{arguments:?}: {message}");
        assert!(message.contains(says), "{arguments:?}: {message}");
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_database_is_refused_with_its_reason() -> anyhow::Result<()> {
    let system = System::start().await?;
    let (folder, _) = system.stop().await?;
    let folder = folder.ok_or_else(|| anyhow::anyhow!("no folder"))?;
    for ending in ["db-wal", "db-shm"] {
        let _ = std::fs::remove_file(folder.path().join(format!("payments.{ending}")));
    }
    std::fs::write(
        folder.path().join("payments.db"),
        "this is no database, ".repeat(1_000),
    )?;
    let backtrace = [("RUST_BACKTRACE", "1")];
    let (code, message) = run_with(&["up", "--port", "0"], folder.path(), &backtrace).await?;
    assert_eq!(code, Some(1), "{message}");
    assert!(
        message.contains("payments did not start") && message.contains("payments.db"),
        "{message}"
    );
    assert!(message.contains("| error: "), "{message}");
    assert!(!message.contains("stack backtrace"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_backup_of_a_running_system_can_be_restored() -> anyhow::Result<()> {
    let system = System::start().await?;
    system.restock("tea", 9, 450).await?;
    system
        .sagamesh(&["order", "place", "tea=2", "--wait"])
        .await?;
    let backups = tempfile::tempdir()?;
    let backup = backups.path().join("monday").display().to_string();
    let pending = system
        .sagamesh(&["order", "place", "tea=1", "--payment-method", "pm_slow"])
        .await?;
    assert!(pending.contains("PENDING"), "{pending}");
    let done = system.sagamesh(&["backup", &backup]).await?;
    assert!(done.contains("databases are in"), "{done}");
    assert_private(std::path::Path::new(&backup))?;
    assert_private(system.folder())?;
    let again = system.run(&["backup", &backup]).await?;
    assert!(String::from_utf8_lossy(&again.stderr).contains("not empty"));
    let running = system.run(&["restore", &backup]).await?;
    assert!(
        String::from_utf8_lossy(&running.stderr).contains("in use"),
        "a running system is not overwritten"
    );
    system.stop().await?;

    let folder = tempfile::tempdir()?;
    let (code, message) = run(&["restore", &backup], folder.path()).await?;
    assert_eq!(code, Some(0), "{message}");
    let restored = System::start_with(Options {
        folder: Some(folder.path().to_owned()),
        ..Default::default()
    })
    .await?;
    // The order that was pending at the backup goes on and ends.
    let orders = books::settled(&restored, Duration::from_secs(60)).await?;
    assert_eq!(orders.len(), 2);
    books::check(&restored, &[("tea", 9)]).await?;
    restored.stop().await?;
    Ok(())
}

/// Nobody but its owner can enter a folder.
fn assert_private(folder: &std::path::Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let mode = std::fs::metadata(folder)?.permissions().mode() & 0o777;
    anyhow::ensure!(mode == 0o700, "{} has mode {mode:o}", folder.display());
    Ok(())
}

#[tokio::test]
async fn variables_of_one_service_do_not_leak_from_the_shell() -> anyhow::Result<()> {
    let names = [
        ("SAGAMESH_JWT_ISSUER", "https://login.example"),
        ("SAGAMESH_JWT_AUDIENCE", "shop"),
    ];
    let stray = [
        ("SAGAMESH_DATABASE_URL", "postgres://127.0.0.1:1/stray"),
        ("SAGAMESH_LISTEN", "127.0.0.1:1"),
        ("SAGAMESH_DRAIN_DELAY", "60s"),
        ("SAGAMESH_REPLICA", "stray"),
    ];
    let system = System::start_with(Options {
        environment: names.iter().chain(&stray).copied().collect(),
        ..Default::default()
    })
    .await?;
    system.restock("tea", 3, 450).await?;
    let place = ["order", "place", "tea", "--wait"];
    let (code, message) = run_with(&place, system.folder(), &names).await?;
    assert_eq!(code, Some(0), "tokens fit the gateway: {message}");
    let (code, message) = run(&place, system.folder()).await?;
    assert_eq!(code, Some(4), "another issuer is refused: {message}");
    assert!(
        message.contains("sagamesh order ... --token"),
        "where the option belongs: {message}"
    );
    let (code, message) = run(&["saga", "get", "nope"], system.folder()).await?;
    assert_eq!(code, Some(4), "{message}");
    assert!(message.contains("sagamesh saga list"), "{message}");
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn what_crashes_is_started_again() -> anyhow::Result<()> {
    let system = System::start().await?;
    for _ in 0..2 {
        let before = system.kill("inventory").await?;
        system.until_back("inventory", before).await?;
    }
    system.restock("tea", 1, 450).await?;
    system.stop().await?;
    Ok(())
}
