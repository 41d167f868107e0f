use std::net::TcpListener;
use std::path::Path;

use super::choice::{FIRST_PORT, FIRST_PUBLIC, PORT_BLOCKS, PORTS_PER_BLOCK};
use super::*;

fn listens(addresses: &Addresses) -> Vec<(String, SocketAddr)> {
    vec![
        ("orders".into(), addresses.pod("orders", 0).grpc),
        ("gateway".into(), addresses.public()),
    ]
}

#[test]
fn a_restart_keeps_its_addresses_and_two_systems_share_none() -> anyhow::Result<()> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (addresses, claim) = Addresses::choose(first.path(), 0, false, listens)?;
    let (others, _claim) = Addresses::choose(second.path(), 0, false, listens)?;
    assert_ne!(addresses.place, others.place);
    drop(claim);
    let (again, _claim) = Addresses::choose(first.path(), 0, false, listens)?;
    assert_eq!(again, addresses);
    assert_eq!(again.public().ip(), Ipv4Addr::LOCALHOST);
    Ok(())
}

#[test]
fn a_block_that_another_system_took_is_left_to_it() -> anyhow::Result<()> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (addresses, _claim) = Addresses::choose(first.path(), 0, false, listens)?;
    let path = Path::new("addresses.json");
    std::fs::copy(first.path().join(path), second.path().join(path))?;
    let (others, _claim) = Addresses::choose(second.path(), 0, false, listens)?;
    assert_ne!(addresses.place, others.place);
    Ok(())
}

#[test]
fn a_taken_gateway_port_is_named() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = holder.local_addr()?.port();
    let message = Addresses::choose(folder.path(), port, false, listens)
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert_eq!(
        message,
        format!("port {port} of the gateway is in use by another program")
    );
    Ok(())
}

#[test]
fn no_two_processes_share_an_address() {
    for linux in [true, false] {
        let addresses = Addresses::for_test(linux);
        let mut all = vec![
            addresses.control(),
            addresses.control_admin(),
            addresses.own_consul(),
            addresses.address(CLAIM_NUMBER, 0, CONTROL),
        ];
        let mut pods = vec![addresses.operator()];
        for service in SERVICES {
            let replicas = 0..crate::launcher::plan::MAX_REPLICAS;
            pods.extend(replicas.map(|replica| addresses.pod(service, replica)));
        }
        for pod in &pods {
            all.extend([pod.grpc, pod.admin, pod.outbound]);
            all.extend([pod.inbound, pod.sidecar_admin]);
        }
        let count = all.len();
        let distinct: std::collections::BTreeSet<_> = all.into_iter().collect();
        assert_eq!(distinct.len(), count);
        let last = FIRST_PORT + PORT_BLOCKS * PORTS_PER_BLOCK;
        assert!(last <= FIRST_PUBLIC && distinct.iter().all(|address| address.ip().is_loopback()));
    }
}

#[test]
fn on_linux_a_workload_is_an_address_and_ports_are_a_clusters() {
    let addresses = Addresses::for_test(true);
    let pod = addresses.pod("orders", 1);
    assert_eq!(pod.grpc.to_string(), "127.70.9.21:50051");
    let gateway = addresses.pod("gateway", 0);
    assert_eq!(gateway.http.to_string(), "127.70.9.60:8080");
    assert_eq!(pod.inbound.to_string(), "127.70.9.21:4143");
    assert_eq!(addresses.control().to_string(), "127.70.9.1:8086");
    assert_eq!(addresses.operator().outbound.to_string(), "127.70.9.2:4140");
}
