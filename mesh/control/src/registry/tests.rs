//! Which checks run when changes of one instance overtake each other.

use std::net::SocketAddr;

use super::spec::CheckSpec;
use super::*;
use crate::world::World;

/// A registry, and what is to be kept as long as it.
fn registry() -> anyhow::Result<(Registry, Tasks, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let tasks = Tasks::new();
    let registry = Registry::open(
        folder.path().join("registry.json"),
        Mesh::new(World::default()),
        Env::system(),
        tasks.clone(),
    )?;
    Ok((registry, tasks, folder))
}

/// An instance that is well as long as connections to `at` open.
fn checked(at: SocketAddr, tag: &str) -> InstanceSpec {
    InstanceSpec {
        service: "shop".to_owned(),
        id: "a".to_owned(),
        address: at.ip().to_string(),
        port: at.port(),
        tags: vec![tag.to_owned()],
        meta: BTreeMap::new(),
        checks: vec![CheckSpec {
            critical_limit: None,
            id: "open".to_owned(),
            name: "open".to_owned(),
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(2),
            initial: Health::Critical,
            kind: CheckKind::Tcp {
                target: at.to_string(),
            },
        }],
        pod: None,
        lease: None,
    }
}

/// The generation whose checks run.
fn runs(registry: &Registry) -> Option<u64> {
    let running = registry.running();
    let (generation, stop) = running.get("a")?;
    (!stop.is_cancelled()).then_some(*generation)
}

/// Waits until the check has passed.
async fn until_well(registry: &Registry) -> anyhow::Result<()> {
    let mut changes = registry.watch();
    while registry
        .table()
        .get("a")
        .is_none_or(|entry| entry.health() != Health::Passing)
    {
        changes.changed().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_late_removal_leaves_a_newer_registration_its_checks() -> anyhow::Result<()> {
    let (registry, tasks, _folder) = registry()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let spec = checked(listener.local_addr()?, "");
    let old = registry.register(spec.clone()).await?;
    assert_eq!(runs(&registry), Some(old.generation));
    // It is removed, and is back before whoever removed it comes to its checks.
    registry.table().deregister("a", None)?;
    let new = registry.register(spec).await?;
    registry.align_checks("a");
    assert_ne!(old.generation, new.generation);
    assert_eq!(runs(&registry), Some(new.generation));
    until_well(&registry).await?;

    registry.deregister("a", None).await?;
    assert_eq!(runs(&registry), None);
    assert!(registry.running().is_empty());
    assert!(tasks.shutdown(Duration::from_secs(5)).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn of_two_registrations_at_once_the_newer_one_is_checked() -> anyhow::Result<()> {
    let (registry, tasks, _folder) = registry()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    // The slower one is in the table, and comes to its checks only after the other one is done.
    let slow = registry
        .table()
        .register(checked(at, "slow"), 0, Instant::now())?;
    let fast = registry.register(checked(at, "fast")).await?;
    registry.align_checks("a");
    assert_ne!(slow.entry.generation, fast.generation);
    assert_eq!(runs(&registry), Some(fast.generation));
    until_well(&registry).await?;

    // And one that is gone before its checks begin has none.
    registry.deregister("a", None).await?;
    registry.align_checks("a");
    assert!(registry.running().is_empty());
    assert!(tasks.shutdown(Duration::from_secs(5)).await.is_ok());
    Ok(())
}
