//! The process itself, killed without warning.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chassis::Env;
use linkerd2_proxy_api::destination::destination_client::DestinationClient;
use linkerd2_proxy_api::destination::{GetDestination, update};
use sagamesh_api::mesh::v1::registry_service_client::RegistryServiceClient;

use crate::registrations::instance;
use crate::rig::{Rig, by};

/// meshd as a process that does not outlive the test.
struct Meshd(Child);

impl Meshd {
    /// Starts it, and waits until it says where it listens.
    async fn start(rig: &Rig, addresses: &Path) -> (Self, String) {
        let child = Command::new(env!("CARGO_BIN_EXE_meshd"))
            .env("SAGAMESH_LISTEN", "127.0.0.1:0")
            .env("SAGAMESH_ADMIN_LISTEN", "127.0.0.1:0")
            .env("SAGAMESH_CONSUL_LISTEN", "none")
            .env("SAGAMESH_DATA_DIR", rig.data_dir())
            .env("SAGAMESH_MESH_POLICY_DIR", rig.policy_dir())
            .env("SAGAMESH_ADDRESSES_FILE", addresses)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("meshd starts");
        let meshd = Self(child);
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            let Ok(text) = std::fs::read_to_string(addresses) else {
                continue;
            };
            let addresses: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let address = addresses["grpc"].as_str().expect("an address").to_owned();
            return (meshd, address);
        }
    }

    /// SIGKILL.
    fn kill(mut self, addresses: &Path) {
        self.0.kill().expect("killed");
        self.0.wait().expect("gone");
        std::fs::remove_file(addresses).expect("removed");
    }
}

impl Drop for Meshd {
    fn drop(&mut self) {
        // It is gone already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_kill_withdraws_nothing() {
    let rig = Rig::new();
    let addresses = rig.data_dir().join("addresses.json");
    let (meshd, address) = Meshd::start(&rig, &addresses).await;
    let channel = chassis::channel(&Env::system(), &address);
    RegistryServiceClient::new(channel)
        .register(by("orders-0", instance("orders", "orders-0", "127.77.0.2")))
        .await
        .expect("registered");
    let anchors = std::fs::read(rig.data_dir().join("mesh/ca.crt")).expect("the anchor");
    meshd.kill(&addresses);

    let (meshd, address) = Meshd::start(&rig, &addresses).await;
    let channel = chassis::channel(&Env::system(), &address);
    let request = GetDestination {
        path: "orders.sagamesh.svc.cluster.local:50051".to_owned(),
        ..GetDestination::default()
    };
    let mut stream = DestinationClient::new(channel)
        .get(request)
        .await
        .expect("a stream")
        .into_inner();
    // The very first message: never "nobody is there".
    let first = stream
        .message()
        .await
        .expect("no error")
        .expect("a message");
    let Some(update::Update::Add(set)) = first.update else {
        panic!("the endpoint was withdrawn: {first:?}")
    };
    assert_eq!(set.addrs.len(), 1);
    let again = std::fs::read(rig.data_dir().join("mesh/ca.crt")).expect("the anchor");
    assert_eq!(anchors, again, "the same authority");
    meshd.kill(&addresses);
}
