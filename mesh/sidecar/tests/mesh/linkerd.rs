//! The same tests with Linkerd's own proxy, which `LINKERD2_PROXY` names: on both sides, calling this crate's sidecar,
//! and called by it.

use std::path::PathBuf;

use mesh_sidecar::testing::linkerd;

use crate::proxy::{BINARY, SIDES};

/// What is this crate's alone: its limits, its binary, its start, the list of its metrics.
const NOT_FOR_IT: [&str; 6] = [
    "crowding::",
    "hostile::",
    "hostile_peers::",
    "metrics::",
    "process::",
    "start::",
];

fn run(sides: &str) {
    if linkerd::is_inside() {
        return;
    }
    let Some(proxy) = std::env::var_os(BINARY).map(PathBuf::from) else {
        eprintln!("not tested with Linkerd's proxy: {BINARY} names no binary");
        return;
    };
    // Relative to where the tests were started.
    let proxy = proxy.canonicalize().unwrap();
    let status = linkerd::in_namespace(&std::env::current_exe().unwrap())
        .args(["--test-threads", "4"])
        .args(NOT_FOR_IT.iter().flat_map(|module| ["--skip", module]))
        .env(BINARY, proxy)
        .env(SIDES, sides)
        .status()
        .unwrap();
    assert!(
        status.success(),
        "with Linkerd's proxy as {sides}: {status}"
    );
}

#[test]
fn with_linkerds_proxy_on_both_sides() {
    run("both");
}

#[test]
fn called_by_linkerds_proxy() {
    run("client");
}

#[test]
fn calling_linkerds_proxy() {
    run("server");
}
