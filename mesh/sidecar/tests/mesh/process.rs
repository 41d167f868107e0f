//! The binary, with its environment.

use std::process::Stdio;

use mesh_sidecar::testing::{ControlPlane, identity_of};
use tokio::process::Command;

use crate::harness::next_ip;

#[tokio::test]
async fn an_unusable_environment_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_sidecar"))
        .env_clear()
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        text,
        "error: LINKERD2_PROXY_DESTINATION_SVC_ADDR is not set\n"
    );
}

#[tokio::test]
async fn it_ends_with_its_parent() {
    let control = ControlPlane::start().await.unwrap();
    let address = control.address().to_string();
    let ip = next_ip();
    let listen = format!("{ip}:0");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
    for (name, value) in [
        ("DESTINATION_SVC_ADDR", address.as_str()),
        ("POLICY_SVC_ADDR", &address),
        ("IDENTITY_SVC_ADDR", &address),
        ("POLICY_WORKLOAD", "orders"),
        ("IDENTITY_TOKEN_FILE", "/nowhere"),
        ("IDENTITY_TRUST_ANCHORS", &control.authority().anchors()),
        ("IDENTITY_LOCAL_NAME", &identity_of("orders")),
        ("INBOUND_LISTEN_ADDR", &listen),
        ("OUTBOUND_LISTEN_ADDR", &listen),
        ("ADMIN_LISTEN_ADDR", &listen),
    ] {
        command.env(format!("LINKERD2_PROXY_{name}"), value);
    }
    let mut child = command
        .env("SAGAMESH_EXIT_WITH_PARENT", "1")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    drop(child.stdin.take());
    assert!(child.wait().await.unwrap().success());
}
