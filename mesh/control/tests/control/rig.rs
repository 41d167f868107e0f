//! A control plane in this process, and what asks it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use chassis::{ChassisConfig, Env, PeerChannel, Process, Tasks};
use linkerd2_proxy_api::destination::destination_client::DestinationClient;
use linkerd2_proxy_api::identity::identity_client::IdentityClient;
use linkerd2_proxy_api::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use linkerd2_proxy_api::outbound::outbound_policies_client::OutboundPoliciesClient;
use mesh_control::policy::Source;
use mesh_control::{Config, OptionalAddress, Options};
use sagamesh_api::mesh::v1::mesh_service_client::MeshServiceClient;
use sagamesh_api::mesh::v1::registry_service_client::RegistryServiceClient;
use sagamesh_api::mesh::v1::{GetPolicyStatusRequest, GetPolicyStatusResponse};
use tempfile::TempDir;

/// The policy files of this repository.
pub(crate) fn real_policy() -> Vec<Source> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("mesh/policy")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name != "kustomization.yaml")
        })
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| Source {
            file: path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned(),
            text: std::fs::read_to_string(path).expect("a text"),
        })
        .collect()
}

/// The secret part of every test workload's token.
pub(crate) const SECRET: &str = "0123456789abcdef";

/// A request in the name of a pod.
pub(crate) fn by<T>(pod: &str, message: T) -> tonic::Request<T> {
    with_token(&format!("Bearer {pod}.{SECRET}"), message)
}

/// A request with this metadata `authorization`.
pub(crate) fn with_token<T>(value: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = value.parse().expect("a value");
    request.metadata_mut().insert("authorization", value);
    request
}

/// Folders of a control plane, and the control plane when it runs.
pub(crate) struct Rig {
    folder: TempDir,
    running: Option<Running>,
}

struct Running {
    address: SocketAddr,
    consul: SocketAddr,
    tasks: Tasks,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Rig {
    /// Folders with the real policy and a workload `NAME-0` for each service.
    pub(crate) fn new() -> Self {
        let rig = Self {
            folder: TempDir::new().expect("a folder"),
            running: None,
        };
        std::fs::create_dir_all(rig.policy_dir()).expect("a folder");
        for source in real_policy() {
            std::fs::write(rig.policy_dir().join(source.file), source.text).expect("written");
        }
        for (number, name) in [
            "gateway",
            "orders",
            "inventory",
            "payments",
            "notifications",
            "coordinator",
        ]
        .into_iter()
        .enumerate()
        {
            rig.workload(name, &format!("127.77.0.{}", number + 1));
        }
        rig
    }

    /// A control plane that runs.
    pub(crate) async fn started() -> Self {
        let mut rig = Self::new();
        rig.start().await;
        rig
    }

    pub(crate) fn policy_dir(&self) -> PathBuf {
        self.folder.path().join("policy")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Records the pod `NAME-0`.
    pub(crate) fn workload(&self, name: &str, ip: &str) {
        let pod = format!("{name}-0");
        let hash = digest(&SHA256, SECRET.as_bytes());
        let hex: String = hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let record = serde_json::json!({
            "pod": pod,
            "namespace": "sagamesh",
            "service_account": name,
            "labels": {
                "app.kubernetes.io/name": name,
                "statefulset.kubernetes.io/pod-name": pod,
            },
            "ip": ip,
            "ports": {"grpc": 50051, "admin": 9090, "http": 8080},
            "inbound_port": 4143,
            "token_sha256": hex,
        });
        let folder = self.data_dir().join("mesh/workloads");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("{pod}.json")), record.to_string()).expect("written");
    }

    /// Starts the control plane on free ports.
    pub(crate) async fn start(&mut self) {
        let free = || {
            std::net::TcpListener::bind("127.0.0.1:0")
                .and_then(|socket| socket.local_addr())
                .expect("a free port")
        };
        let consul = free();
        let mut chassis = ChassisConfig::default();
        chassis.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        chassis.server.admin_listen = chassis.server.listen;
        chassis.server.drain_timeout = Duration::from_secs(2);
        let process = Process::for_test_with("meshd", chassis.clone());
        let (address, tasks) = (process.grpc_addr(), process.tasks.clone());
        let config = Config {
            chassis,
            options: Options {
                data_dir: self.data_dir(),
                policy_dir: self.policy_dir(),
                certificate_lifetime: Duration::from_secs(3600),
                consul_listen: OptionalAddress(Some(consul)),
            },
            print_service_config: false,
        };
        let served = tokio::spawn(mesh_control::run(config, process));
        self.running = Some(Running {
            address,
            consul,
            tasks,
            served,
        });
        // Answers only once everything is loaded.
        self.status().await;
    }

    /// Stops it as a kill would: nothing is written on the way.
    pub(crate) async fn kill(&mut self) {
        let running = self.running.take().expect("it runs");
        running.served.abort();
        assert!(running.served.await.is_err(), "aborted");
        running
            .tasks
            .shutdown(Duration::from_secs(5))
            .await
            .expect("its tasks end");
    }

    /// Tells it to end, and waits until it has.
    pub(crate) async fn drain(&mut self) {
        let running = self.running.take().expect("it runs");
        running.tasks.begin_drain();
        running.served.await.expect("no panic").expect("no error");
        running
            .tasks
            .shutdown(Duration::from_secs(5))
            .await
            .expect("its tasks end");
    }

    fn channel(&self) -> PeerChannel {
        let running = self.running.as_ref().expect("it runs");
        chassis::channel(&Env::system(), &running.address.to_string())
    }

    pub(crate) fn consul(&self) -> SocketAddr {
        self.running.as_ref().expect("it runs").consul
    }

    pub(crate) fn destination(&self) -> DestinationClient<PeerChannel> {
        DestinationClient::new(self.channel())
    }

    pub(crate) fn outbound(&self) -> OutboundPoliciesClient<PeerChannel> {
        OutboundPoliciesClient::new(self.channel())
    }

    pub(crate) fn inbound(&self) -> InboundServerPoliciesClient<PeerChannel> {
        InboundServerPoliciesClient::new(self.channel())
    }

    pub(crate) fn identity(&self) -> IdentityClient<PeerChannel> {
        IdentityClient::new(self.channel())
    }

    pub(crate) fn registry(&self) -> RegistryServiceClient<PeerChannel> {
        RegistryServiceClient::new(self.channel())
    }

    pub(crate) fn operator(&self) -> MeshServiceClient<PeerChannel> {
        MeshServiceClient::new(self.channel())
    }

    pub(crate) async fn status(&self) -> GetPolicyStatusResponse {
        self.operator()
            .get_policy_status(GetPolicyStatusRequest {})
            .await
            .expect("a status")
            .into_inner()
    }

    /// Waits until the policy status is as wanted.
    pub(crate) async fn status_when(
        &self,
        wanted: impl Fn(&GetPolicyStatusResponse) -> bool,
    ) -> GetPolicyStatusResponse {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            tick.tick().await;
        }
    }
}

/// Labels of a pod of this name.
pub(crate) fn labels(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app.kubernetes.io/name".to_owned(), name.to_owned())])
}
